"""The adapter for weights without a configuration.

It is asked only where no other format fits. What names and shapes decide is decided; what they leave open is asked for in
one sentence, and what a convention decided is recorded in ``CheckpointInfo.assumed``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saebench.checkpoints.base import Adapter, Location, integer, take_matrix
from saebench.checkpoints.given import ACTIVATIONS, open_questions, parse_activation, parse_scale
from saebench.checkpoints.state_dict.conventions import Layout, convention, layout, subtracts_bias
from saebench.checkpoints.state_dict.reading import State, is_state, read_state, weight_files
from saebench.errors import SaebenchError
from saebench.sae import Activation, CheckpointInfo, Gated, InputScaling, JumpReLU, SparseAutoencoder, TopK


@dataclass(frozen=True)
class _Understood:
    state: State
    layout: Layout
    subtracts: bool
    activation: Activation | None
    scaling: InputScaling
    missing: tuple[str, ...]
    assumed: dict[str, str]


class StateDict(Adapter):
    """A ``.pt``, ``.pth`` or ``.safetensors`` file, or shards with their index, with an encoder and a decoder."""

    name = "state_dict"
    looks_for = "weights alone: a .pt or .safetensors file with W_enc and W_dec, or encoder.weight and decoder.weight"
    fallback = True
    takes = ("activation", "scale")

    def recognise(self, location: Location) -> bool:
        """By an encoder's and a decoder's matrices."""
        return bool(weight_files(location)) and is_state(read_state(location))

    def weights_file(self, location: Location) -> str:
        """The file, or the first shard."""
        return weight_files(location)[0]

    def weights_files(self, location: Location) -> list[str]:
        """The file, or every shard."""
        return weight_files(location)

    def describe(self, location: Location) -> CheckpointInfo:
        """From the memory-mapped tensors and what the user gave; what is still open stands in ``missing``."""
        return _describe(_understand(location), location)

    def load(self, location: Location) -> SparseAutoencoder:
        """The weights in saebench's layout.

        Raises:
            SaebenchError: something that changes the numbers is open.
        """
        found = _understand(location)
        if found.missing or found.activation is None:
            raise SaebenchError(open_questions(location.origin, found.missing))
        tensors, sizes = found.state.tensors, found.layout
        b_dec = tensors.get("b_dec", torch.zeros(sizes.d_out)).reshape(-1)
        gated = isinstance(found.activation, Gated)
        b_enc = found.activation.b_gate if isinstance(found.activation, Gated) else tensors.get("b_enc")
        if gated and "b_enc" in tensors:
            raise SaebenchError(f"{location.origin} is gated but has b_enc as well: its formula is not known.")
        skip = tensors.get("W_skip")
        return SparseAutoencoder(
            W_enc=_turned(tensors["W_enc"], sizes.encoder_transposed),
            W_dec=_turned(tensors["W_dec"], sizes.decoder_transposed),
            b_enc=torch.zeros(sizes.n_latents) if b_enc is None else b_enc.reshape(-1),
            b_dec=b_dec,
            b_pre=b_dec if found.subtracts else tensors.get("b_pre"),
            W_skip=None if skip is None else take_matrix(tensors, "W_skip", location).T,
            activation=found.activation,
            scaling=found.scaling,
            info=_describe(found, location),
        )


def _understand(location: Location) -> _Understood:
    state = read_state(location)
    missing: list[str] = []
    assumed = dict(state.assumed)
    if state.extra:
        if location.given.format is None:
            raise SaebenchError(
                f"{location.origin} holds tensors that saebench does not know ({', '.join(state.extra[:6])}): if they do "
                "not change what it computes, say whose conventions hold with --format, such as saelens or plain."
            )
        assumed["tensors left out"] = f"{', '.join(state.extra)} (--format)"
    stated = convention(state, location)
    sizes = layout(state, stated, missing, assumed)
    subtracts = state.places == 1 and subtracts_bias(state, sizes, stated, missing, assumed)
    activation = _activation(state, sizes.n_latents, location, missing, assumed)
    given = location.given
    for name, value in (("format", given.format), ("activation", given.activation), ("scale", given.scale)):
        if value is not None:
            assumed[name] = f"{value} (--{name})"
    if given.scale is None:
        assumed["input scaling"] = "none, as the weights do not say; --scale gives one"
    return _Understood(state, sizes, subtracts, activation, parse_scale(given.scale), tuple(missing), assumed)


def _activation(state: State, n: int, location: Location, missing: list[str], assumed: dict[str, str]) -> Activation | None:
    """From ``--activation``, else from the tensors that only one activation function has."""
    tensors = state.tensors
    k = integer(tensors["k"], "k", location) if "k" in tensors else None
    threshold = tensors["log_threshold"].exp() if "log_threshold" in tensors else tensors.get("threshold")
    if threshold is not None and threshold.numel() not in (1, n):
        raise SaebenchError(f"The threshold of {location.origin} has {threshold.numel()} values, but there are {n} latents.")
    gates = [tensors.get(name) for name in ("r_mag", "b_mag", "b_gate")]
    if all(gate is not None for gate in gates):
        if location.given.activation not in (None, "gated"):
            raise SaebenchError(f"{location.origin} is a gated autoencoder by its tensors: leave out --activation.")
        return Gated(*(gate.reshape(-1) for gate in gates if gate is not None))
    if any(gate is not None for gate in gates):
        raise SaebenchError(f"{location.origin} holds some but not all of r_mag, b_mag and b_gate of a gated autoencoder.")
    if location.given.activation is not None:
        return parse_activation(location.given.activation, k, _set(threshold), n)
    if threshold is not None and threshold.numel() > 1:
        return JumpReLU(threshold.reshape(-1))
    if threshold is not None:
        missing.append(
            "the activation, as a threshold fits several (--activation topk or batchtopk, with the numbers in the weights)"
            if k is not None
            else "the activation, as a threshold fits several (--activation jumprelu or batchtopk)"
        )
        return None
    if k is not None:
        assumed["activation"] = f"topk:{k}, as the weights hold k and no threshold"
        return TopK(k)
    missing.append(f"the activation (--activation {ACTIVATIONS})")
    return None


def _set(threshold: Tensor | None) -> Tensor | None:
    """A threshold of -1 was never set in training: it is none."""
    return None if threshold is not None and threshold.numel() == 1 and float(threshold) < 0 else threshold


def _describe(found: _Understood, location: Location) -> CheckpointInfo:
    activation = found.activation
    return CheckpointInfo(
        origin=location.origin,
        format=StateDict.name,
        architecture=_architecture(found),
        d_in=found.layout.d_in,
        d_out=found.layout.d_out,
        n_latents=found.layout.n_latents,
        activation={} if activation is None else activation.describe(),
        scaling=found.scaling.kind,
        dtype=str(found.state.tensors["W_enc"].dtype).removeprefix("torch."),
        assumed=found.assumed,
        missing=found.missing,
    )


def _architecture(found: _Understood) -> str:
    name = "unknown" if found.activation is None else found.activation.name
    return name if found.state.places == 1 else f"crosscoder ({name})"


def _turned(matrix: Tensor, transposed: bool) -> Tensor:
    return matrix.T if transposed else matrix
