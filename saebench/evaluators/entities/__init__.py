"""RAVEL: prompts about attributes of entities, and interventions on the latents of an attribute."""
