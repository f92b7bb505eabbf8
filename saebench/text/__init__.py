"""Texts: their sources, and rows of tokens."""
