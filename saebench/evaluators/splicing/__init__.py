"""Language-model outputs with something else in place of activations: rows, interventions, effects."""
