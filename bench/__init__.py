"""Measurements: each module is a command that prints one table of docs/benchmarks.md."""
