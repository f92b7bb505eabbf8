"""A fuzzer of every reader of files from strangers; see ``python -m tests.fuzz --help``."""
