"""The first letter of a word: prompts, probes on activations and latents, and absorption."""
