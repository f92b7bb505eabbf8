"""Scaling laws (Gao et al. 2024, section 3)."""
