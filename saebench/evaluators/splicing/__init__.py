"""Language-model outputs with replaced activations: rows, interventions, effects."""
