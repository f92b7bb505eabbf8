"""Probes on latents and on the residual stream."""
