"""Codes of an autoencoder at other sparsities, or with refined values."""
