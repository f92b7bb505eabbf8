"""Weights without any configuration, recognised by the names and shapes of their tensors."""

from saebench.checkpoints.state_dict.adapter import StateDict

__all__ = ["StateDict"]
