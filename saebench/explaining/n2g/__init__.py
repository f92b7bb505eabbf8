"""Neuron2Graph: explanations as tries of n-grams, and how well they predict."""
