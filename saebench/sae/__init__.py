"""Sparse autoencoders: weights, activation functions, input scaling, sparse codes."""

from saebench.sae.activations import Activation, Gated, GroupMax, JumpReLU, ProLU, ReLU, TopK
from saebench.sae.foreign import ForeignAutoencoder, wrap
from saebench.sae.info import CheckpointInfo
from saebench.sae.latents import SparseLatents
from saebench.sae.model import Autoencoder, SparseAutoencoder
from saebench.sae.scaling import InputScaling

__all__ = [
    "Activation",
    "Autoencoder",
    "CheckpointInfo",
    "ForeignAutoencoder",
    "Gated",
    "GroupMax",
    "InputScaling",
    "JumpReLU",
    "ProLU",
    "ReLU",
    "SparseAutoencoder",
    "SparseLatents",
    "TopK",
    "wrap",
]
