"""The version of saebench."""

__version__ = "0.1.0"
