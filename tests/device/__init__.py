"""Checks and timings for a GPU: ``python -m tests.device``."""
