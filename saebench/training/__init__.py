"""Training reference autoencoders."""
