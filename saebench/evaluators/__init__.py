"""Evaluators: each judges one aspect of an autoencoder."""
