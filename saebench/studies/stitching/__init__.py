"""Stitching (Leask et al. 2025): the path from a smaller autoencoder to a larger one."""
