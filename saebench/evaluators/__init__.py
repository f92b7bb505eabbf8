"""Evaluators: each measures one aspect of an autoencoder."""
