"""Meta-autoencoders (Leask et al. 2025)."""
