"""Benchmarks: every figure of the README and of results/*.json comes from one of these commands."""
