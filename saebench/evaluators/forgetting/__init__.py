"""Unlearning: pairs of texts and questions to forget and to retain, and the effect of clamped latents on the answers."""
