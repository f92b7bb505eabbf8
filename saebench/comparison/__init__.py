"""Results side by side: what differs by more than its error, and where the frontiers of sparsity and fidelity lie."""
