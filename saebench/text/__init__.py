"""Texts: where they come from, and as rows of tokens."""
