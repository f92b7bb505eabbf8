"""Explanations of latents, and how well they predict."""
