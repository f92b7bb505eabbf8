"""Results side by side: what differs by more than its error, and the frontiers of sparsity and fidelity."""
