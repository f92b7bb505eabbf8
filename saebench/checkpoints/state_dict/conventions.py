"""What the names of a state dict's tensors say of its formula, and what its shapes say of its layout."""

from __future__ import annotations

from dataclasses import dataclass

from saebench.checkpoints.base import Location
from saebench.checkpoints.state_dict.reading import State
from saebench.errors import SaebenchError


@dataclass(frozen=True)
class Convention:
    """How a library writes and reads its weights.

    Attributes:
        subtracts: whether ``b_dec`` is subtracted from the input before encoding.
        encoder_rows: whether the encoder is stored as ``[n, d]``; None for either.
        decoder_rows: whether the decoder is stored as ``[n, d]``; None for either.
    """

    subtracts: bool
    encoder_rows: bool | None = None
    decoder_rows: bool | None = None


CONVENTIONS = {
    "saelens": Convention(True, encoder_rows=False, decoder_rows=True),
    "dictionary_learning": Convention(True),
    "sparsify": Convention(True, encoder_rows=True, decoder_rows=True),
    "gemma_scope": Convention(False, encoder_rows=False, decoder_rows=True),
    "qwen_scope": Convention(False, encoder_rows=True, decoder_rows=False),
    "plain": Convention(False),
}
"""By the name that ``--format`` takes. ``plain`` is two affine maps and nothing else, as of two linear layers."""


@dataclass(frozen=True)
class Layout:
    """The sizes, and which matrices are stored transposed to saebench's ``W_enc [d, n]`` and ``W_dec [n, d]``."""

    d_in: int
    d_out: int
    n_latents: int
    encoder_transposed: bool
    decoder_transposed: bool


def convention(state: State, location: Location) -> Convention | None:
    """The convention that ``--format`` names, or None.

    Raises:
        SaebenchError: there is none of that name.
    """
    name = location.given.format
    if name is None or name == "state_dict":
        return None
    if name not in CONVENTIONS:
        known = ", ".join(CONVENTIONS)
        raise SaebenchError(f"--format {name} is not known for weights without a configuration: give {known}.")
    found = CONVENTIONS[name]
    if name == "dictionary_learning" and (state.spelled.get("b_dec") == "decoder.bias" or _thresholds(state)):
        return Convention(False)  # its AutoEncoderNew and JumpReluAutoEncoder subtract nothing
    return found


def layout(state: State, stated: Convention | None, missing: list[str], assumed: dict[str, str]) -> Layout:
    """Sizes and orientation, from the biases' lengths, else from the matrices' shapes, else by convention.

    Adds to ``missing`` where they leave it open, and to ``assumed`` where a convention decided.
    """
    encoder, decoder = tuple(state.tensors["W_enc"].shape), tuple(state.tensors["W_dec"].shape)
    if state.places > 1:  # made from three dimensions, whose order is known
        return Layout(encoder[0], decoder[1], encoder[1], encoder_transposed=False, decoder_transposed=False)
    b_enc, b_dec = (state.tensors[name].numel() if name in state.tensors else None for name in ("b_enc", "b_dec"))
    if encoder[0] == encoder[1]:
        rows = True if state.linear else stated.encoder_rows if stated is not None else None
        if rows is None:
            missing.append("which axis of W_enc is the latents (--format saelens for [d, n], qwen_scope for [n, d])")
        rows = bool(rows)
    elif b_enc in encoder:
        rows = encoder[0] == b_enc
    elif b_dec in decoder and decoder[0] != decoder[1]:
        n = decoder[1] if decoder[0] == b_dec else decoder[0]
        rows = encoder[0] == n
    else:
        rows = encoder[0] > encoder[1]
        assumed["n_latents"] = "the longer side of the encoder, as no bias says which side is the latents"
    n, d_in = encoder if rows else encoder[::-1]
    if decoder[0] == decoder[1]:
        stored = stated.decoder_rows if stated is not None and not state.linear else None
        by_rows = stored if stored is not None else not state.spelled["W_dec"].endswith(".weight")
    else:
        by_rows = decoder[0] == n
    return Layout(d_in, decoder[1] if by_rows else decoder[0], n, rows, not by_rows)


def subtracts_bias(
    state: State, found: Layout, stated: Convention | None, missing: list[str], assumed: dict[str, str]
) -> bool:
    """Whether ``b_dec`` is subtracted before encoding: as ``--format`` says, else by the bias's name."""
    spelling = state.spelled.get("b_dec")
    if spelling is None or "b_pre" in state.tensors or found.d_in != found.d_out:
        return False
    if stated is not None:
        return stated.subtracts
    if spelling in ("b_dec", "b_D") and not state.linear and _thresholds(state):
        missing.append(
            "whether b_dec is subtracted before encoding (--format saelens if so, gemma_scope or dictionary_learning if not)"
        )
        return False
    subtracts = "." not in spelling and spelling != "b_D"
    assumed["decoder bias"] = (
        f"{spelling} is {'' if subtracts else 'not '}subtracted before encoding, as the libraries that use this name do; "
        f"--format {'plain' if subtracts else 'saelens'} for the opposite"
    )
    return subtracts


def _thresholds(state: State) -> bool:
    """Whether there is a threshold for each latent, as of a JumpReLU autoencoder."""
    return "log_threshold" in state.tensors or ("threshold" in state.tensors and state.tensors["threshold"].numel() > 1)
