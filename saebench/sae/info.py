"""The metadata of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class CheckpointInfo:
    """A checkpoint's metadata, read without loading its weights where the format allows.

    Attributes:
        origin: where it came from, as the user gave it.
        format: name of the adapter that recognised it.
        architecture: ``topk``, ``batchtopk``, ``jumprelu``, ``relu``, ``gated``, ``prolu``, ``groupmax``, ``matryoshka``,
            ``matching_pursuit``, ``temporal``.
        d_in: width of the activations it reads; ``d_out`` of those it writes.
        n_latents: width of the dictionary.
        activation: the activation function as JSON data, such as ``{"name": "topk", "k": 32}``.
        scaling: type of input scaling.
        hook_in: where it reads, in the checkpoint's own spelling; ``hook_out`` where it writes (the same unless it is a
            transcoder).
        model: the language model's name as the checkpoint gives it.
        context: number of tokens in a training context.
        prepend_bos: whether training contexts began with a BOS token.
        dtype: of the stored weights.
        group_sizes: sizes of the nested prefixes of a Matryoshka autoencoder.
        weights_sha256: of the file that holds the weights, once it was read.
        training: the full training record, where the format keeps one.
        assumed: what the files leave open and was taken from an option or from a convention, with how it was decided.
        missing: what is still open, each with the option that gives it; such a checkpoint cannot be loaded.
    """

    origin: str
    format: str
    architecture: str
    d_in: int
    d_out: int
    n_latents: int
    activation: dict[str, Any]
    scaling: str = "none"
    hook_in: str | None = None
    hook_out: str | None = None
    model: str | None = None
    context: int | None = None
    prepend_bos: bool | None = None
    dtype: str | None = None
    group_sizes: tuple[int, ...] | None = None
    weights_sha256: str | None = None
    training: dict[str, Any] = field(default_factory=dict)
    assumed: dict[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    def with_places(self, model: str | None, hook: str | None) -> CheckpointInfo:
        """With a language model and a hook (read and written) in place of the checkpoint's own, where they are given."""
        changes: dict[str, str] = {} if model is None else {"model": model}
        return replace(self, **changes | ({} if hook is None else {"hook_in": hook, "hook_out": hook}))  # type: ignore[arg-type]
