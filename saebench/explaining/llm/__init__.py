"""Explanations written and scored by a language model behind an endpoint."""
