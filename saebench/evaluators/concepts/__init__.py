"""Effects of ablating the latents of a concept on linear probes: spurious correlation removal, targeted perturbation."""
