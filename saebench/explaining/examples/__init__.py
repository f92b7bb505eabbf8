"""Activating examples of latents: collecting, storing and sampling them."""
