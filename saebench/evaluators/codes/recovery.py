"""The levels of sparsity at which an autoencoder is measured, and its code at each of them.

Two rules reduce or extend a code: the ``k'`` latents of largest magnitude of each token, and all latents above one
threshold for all tokens, set so that ``k'`` are active on average.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from saebench.evaluators.base import Setup
from saebench.evaluators.splicing.rows import sampled_rows
from saebench.sae import Activation, Autoencoder, JumpReLU, SparseAutoencoder, SparseLatents, TopK
from saebench.sae.activations import GroupMax

BEYOND = (2, 4)
"""Levels above the autoencoder's own, as multiples of it, where pre-activations are available."""
SPARE = 2
"""Thresholds are set among this many times the largest level's latents of each token."""


def own_count(l0: float) -> int:
    """The level that an L0 counts as."""
    return max(1, round(l0))


@dataclass(frozen=True)
class Levels:
    """The levels of sparsity of an autoencoder.

    Attributes:
        own: its mean L0 on the calibration rows.
        counts: the numbers ``k'``: powers of two below ``own``, ``own`` rounded, and those above.
        thresholds: one for each of ``counts``.
    """

    own: float
    counts: tuple[int, ...]
    thresholds: tuple[float, ...]

    @property
    def own_count(self) -> int:
        """The level that is the autoencoder's own."""
        return own_count(self.own)


def find_levels(setup: Setup, rows: int) -> Levels:
    """Choose levels and thresholds on a random sample of ``rows`` rows, independently of the batches of the pass."""
    sae = setup.sae
    sample = [_counted_inputs(setup, row) for row in sampled_rows(setup, rows).tolist()]
    tokens = sum(inputs.shape[0] for inputs in sample)
    mean = sum(int(sae.encode(inputs).l0().sum()) for inputs in sample) / max(tokens, 1)
    nominal = max(1, round(mean))
    counts = [2**power for power in range(max(nominal - 1, 0).bit_length()) if 2**power < nominal] + [nominal]
    if widest(sae, nominal) is not None:
        counts += [count * nominal for count in BEYOND if count * nominal <= sae.n_latents]
    source = widest(sae, min(sae.n_latents, SPARE * counts[-1])) or sae
    values = torch.cat([source.encode(inputs).values.abs().flatten() for inputs in sample]).sort(descending=True).values
    places = (count * tokens for count in counts)  # midway between the last included value and the first excluded one
    thresholds = (float(values[place - 1 : place + 1].mean()) if 0 < place < values.numel() else 0.0 for place in places)
    return Levels(mean, tuple(counts), tuple(thresholds))


def _counted_inputs(setup: Setup, row: int) -> Tensor:
    prefix = setup.cut.prefix(setup.corpus.tokens[row : row + 1])
    return prefix.inputs[0, (~setup.corpus.excluded[row]).to(prefix.inputs.device)].float()


def widest(sae: Autoencoder, count: int) -> SparseAutoencoder | None:
    """The autoencoder with its ``count`` largest pre-activations active, or None where it has no further ones.

    A ReLU autoencoder has none: all positive pre-activations are active already. Inactive latents of gated and ProLU
    autoencoders have no defined value.
    """
    activation = _ranked(sae, count)
    return None if activation is None or not isinstance(sae, SparseAutoencoder) else replace(sae, activation=activation)


def _ranked(sae: Autoencoder, count: int) -> Activation | None:
    if not isinstance(sae, SparseAutoencoder):
        return None
    if isinstance(sae.activation, TopK):
        return replace(sae.activation, k=count)
    return TopK(count) if isinstance(sae.activation, JumpReLU | GroupMax) else None


def by_count(sae: Autoencoder, inputs: Tensor, own: SparseLatents, levels: Levels) -> Iterator[tuple[int, SparseLatents]]:
    """``(k', code)`` of the ``k'`` largest latents, for every level; ``own`` is the autoencoder's code of ``inputs``."""
    wide: SparseLatents | None = None
    for count in levels.counts:
        if count <= levels.own_count:
            yield count, own if count == levels.own_count else own.largest(count)
            continue
        if wide is None:
            wider = widest(sae, levels.counts[-1])
            assert wider is not None  # else there is no such level
            wide = wider.encode(inputs)
        yield count, wide.largest(count)


def by_threshold(
    sae: Autoencoder, inputs: Tensor, own: SparseLatents, levels: Levels
) -> Iterator[tuple[int, SparseLatents]]:
    """``(k', code)`` of all latents above the level's threshold, in magnitude; without pre-activations, of active ones."""
    code = own
    if isinstance(sae, SparseAutoencoder) and widest(sae, 1) is not None and not getattr(sae.activation, "signed", False):
        lowest = torch.full((sae.n_latents,), min(levels.thresholds), device=sae.W_enc.device)
        code = replace(sae, activation=JumpReLU(lowest)).encode(inputs)
    if code.values.shape[1]:
        order = code.values.abs().argsort(dim=1, descending=True)
        code = replace(code, indices=code.indices.gather(1, order), values=code.values.gather(1, order))
    for count, threshold in zip(levels.counts, levels.thresholds, strict=True):
        keep = code.values.abs() > threshold
        most = int(keep.sum(dim=1).max()) if keep.numel() else 0
        narrow = replace(code, indices=code.indices[:, :most], values=code.values[:, :most])
        yield count, narrow.where(keep[:, :most])


def prefix_sizes(sae: Autoencoder) -> tuple[int, ...]:
    """The number of latents of each nested prefix of a Matryoshka autoencoder; empty for others."""
    groups = sae.info.group_sizes
    if groups is None or not isinstance(sae, SparseAutoencoder) or sum(groups) != sae.n_latents:
        return ()
    return tuple(int(size) for size in torch.tensor(groups).cumsum(0))
