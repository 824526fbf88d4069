"""cohortloom: synthetic patients, drawn together and judged."""
