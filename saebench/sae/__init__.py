"""Sparse autoencoders: weights, activation functions, input scaling, sparse codes."""

from saebench.sae.activations import Activation, Gated, GroupMax, JumpReLU, ProLU, ReLU, TopK
from saebench.sae.foreign import ForeignAutoencoder, wrap
from saebench.sae.info import CheckpointInfo
from saebench.sae.latents import SparseLatents
from saebench.sae.layered import AnyAutoencoder, LayeredAutoencoder
from saebench.sae.model import Autoencoder, SparseAutoencoder, context_of, hook_width
from saebench.sae.pursuit import MatchingPursuit
from saebench.sae.scaling import InputScaling
from saebench.sae.temporal import AttentionLayer, TemporalContext

__all__ = [
    "Activation",
    "AnyAutoencoder",
    "AttentionLayer",
    "Autoencoder",
    "CheckpointInfo",
    "ForeignAutoencoder",
    "Gated",
    "GroupMax",
    "InputScaling",
    "JumpReLU",
    "LayeredAutoencoder",
    "MatchingPursuit",
    "ProLU",
    "ReLU",
    "SparseAutoencoder",
    "SparseLatents",
    "TemporalContext",
    "TopK",
    "context_of",
    "hook_width",
    "wrap",
]
