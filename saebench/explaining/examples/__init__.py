"""Activating examples of latents: collecting, keeping and sampling them."""
