"""Benchmarks: `python -m tests.benchmarks [name ...]` measures and prints tables. Nothing here is a timed test."""
