"""The command line: paths in, one call, paths out."""
