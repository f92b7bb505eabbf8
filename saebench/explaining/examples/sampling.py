"""Seeded samples of activations and latents, independent of the size of batches.

Each activation has a priority, a hash of the seed, the latent and the position in the corpus; the sample of a latent is
its activations of lowest priority. One pass samples all latents at once, in memory bounded by the size of the sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from saebench.lm import Cut
from saebench.sae import Autoencoder, SparseLatents
from saebench.text.corpus import TokenCorpus

TOKENS_PER_BATCH = 1024
MOST_KEPT = 2**29
"""Bytes of activations that ``HookInputs`` keeps; what is beyond them is computed each time."""
BUFFER = 2**21
"""Activations buffered in addition to the sample before it is reduced again: 80 MiB."""

_MOST = torch.iinfo(torch.int64).max


class EncodedRows(NamedTuple):
    """The counted tokens of some rows: ``rows`` and ``positions`` (``[tokens]``) in the corpus, activations and code."""

    rows: Tensor
    positions: Tensor
    inputs: Tensor  # [tokens, d_in] float32
    latents: SparseLatents


class HookInputs:
    """What the autoencoders of a hook read on a text: the layers below the hook run once for each row, for all of them.

    Args:
        cut: the language model, cut at the hook.
        corpus: the text.
    """

    def __init__(self, cut: Cut, corpus: TokenCorpus) -> None:
        self.cut, self.corpus = cut, corpus
        self._rows: dict[int, Tensor] = {}
        self._bytes = 0

    @torch.no_grad()
    def of(self, rows: Tensor) -> Tensor:
        """``[rows, context, d_in]``, of rows with these numbers."""
        missing = [row for row in rows.tolist() if row not in self._rows]
        new = dict(zip(missing, self.cut.prefix(self.corpus.tokens[missing]).inputs, strict=True)) if missing else {}
        found = torch.stack([new[row] if row in new else self._rows[row] for row in rows.tolist()])
        for row, inputs in new.items():
            size = inputs.numel() * inputs.element_size()
            if self._bytes + size <= MOST_KEPT:
                self._rows[row] = inputs.clone()
                self._bytes += size
        return found


@torch.no_grad()
def encode_rows(source: HookInputs, sae: Autoencoder, rows: Tensor) -> Iterator[EncodedRows]:
    """Encode the counted tokens of ``rows`` (numbers of rows of the text)."""
    corpus = source.corpus
    for some in rows.split(max(1, TOKENS_PER_BATCH // corpus.context)):
        inputs = source.of(some)
        batch_rows, positions = (~corpus.excluded[some]).nonzero(as_tuple=True)
        x = inputs[batch_rows.to(inputs.device), positions.to(inputs.device)].float()
        yield EncodedRows(some[batch_rows], positions, x, sae.encode(x))


def split_rows(n_rows: int, unseen_share: float, seed: int) -> tuple[Tensor, Tensor]:
    """``(rows for examples, unseen rows)``, both in order; at least one of each where there are two rows."""
    order = torch.randperm(n_rows, generator=torch.Generator().manual_seed(seed))
    n_unseen = min(max(1, round(unseen_share * n_rows)), n_rows - 1)
    return order[n_unseen:].sort().values, order[:n_unseen].sort().values


@dataclass(frozen=True)
class SampledActivations:
    """A random sample of every latent's activations, with statistics of all of them.

    Attributes:
        rows, positions: ``[entries]`` int64, in the corpus; ``values``: ``[entries]`` float32. Sorted by latent, and
            within a latent in random order.
        offsets: ``[n_latents + 1]``: latent ``i`` has entries ``offsets[i]`` to ``offsets[i + 1]``.
        counts: ``[n_latents]`` int64: how often each latent fired in total; ``mass``: float64, the sum of its activations;
            ``largest``: float32.
        tokens: number of tokens in the pass.
    """

    rows: Tensor
    positions: Tensor
    values: Tensor
    offsets: Tensor
    counts: Tensor
    mass: Tensor
    largest: Tensor
    tokens: int

    def of(self, latent: int) -> slice:
        """The entries of one latent."""
        return slice(int(self.offsets[latent]), int(self.offsets[latent + 1]))


class ActivationSampler:
    """Collects positive activations, at most ``per_latent`` of each latent.

    Only positive ones: a signed TopK's negative activations are a different direction, and the trie's 0 means "does not
    fire".
    """

    def __init__(self, n_latents: int, per_latent: int, seed: int) -> None:
        self.n_latents, self.per_latent, self.seed = n_latents, per_latent, seed
        self.tokens = 0
        self.counts = torch.zeros(n_latents, dtype=torch.int64)
        self.mass = torch.zeros(n_latents, dtype=torch.float64)
        self.largest = torch.zeros(n_latents)
        self._limit = torch.full((n_latents,), _MOST)
        self._kept: list[Tensor] = []  # each [4, entries] int64: latent, priority, row, position
        self._values: list[Tensor] = []
        self._buffered = 0

    def update(self, batch: EncodedRows) -> None:
        """Add a batch."""
        self.tokens += batch.rows.numel()
        tokens, slots = (batch.latents.values > 0).nonzero(as_tuple=True)
        values = batch.latents.values[tokens, slots].float().cpu()
        latents, tokens = batch.latents.indices[tokens, slots].cpu(), tokens.cpu()
        self.counts += torch.bincount(latents, minlength=self.n_latents)
        self.mass += torch.bincount(latents, weights=values.double(), minlength=self.n_latents)
        self.largest.scatter_reduce_(0, latents, values, "amax")
        rows, positions = batch.rows[tokens], batch.positions[tokens]
        priorities = sample_priorities(self.seed, latents, rows, positions)
        keep = priorities < self._limit[latents]
        self._kept.append(torch.stack([latents, priorities, rows, positions])[:, keep])
        self._values.append(values[keep])
        self._buffered += int(keep.sum())
        if self._buffered > BUFFER:
            self._shrink()

    def _shrink(self) -> None:
        kept, values = torch.cat(self._kept, dim=1), torch.cat(self._values)
        order = kept[1].argsort()
        order = order[kept[0][order].argsort(stable=True)]
        kept, values = kept[:, order], values[order]
        counts = torch.bincount(kept[0], minlength=self.n_latents)
        ranks = torch.arange(kept.shape[1]) - (counts.cumsum(0) - counts)[kept[0]]
        last = ranks == self.per_latent - 1
        self._limit[kept[0][last]] = kept[1][last]
        self._kept, self._values = [kept[:, ranks < self.per_latent]], [values[ranks < self.per_latent]]
        self._buffered = 0

    def result(self) -> SampledActivations:
        """The sample so far."""
        if not self._kept:
            self._kept, self._values = [torch.zeros(4, 0, dtype=torch.int64)], [torch.zeros(0)]
        self._shrink()
        latents, _, rows, positions = self._kept[0]
        counts = torch.bincount(latents, minlength=self.n_latents)
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
        return SampledActivations(
            rows, positions, self._values[0], offsets, self.counts, self.mass, self.largest, self.tokens
        )


def sample_priorities(seed: int, latents: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
    """``[entries]`` int64, non-negative: a hash of each activation's position, uniform for practical purposes."""
    start = _mix(torch.tensor(seed, dtype=torch.int64) + 1)
    return _mix(_mix(_mix(start ^ latents) ^ rows) ^ positions) & _MOST


def _mix(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014) on wrapping 64-bit integers."""
    x = x - 0x61C8864680B583EB  # the golden ratio's increment, as a signed number
    x = (x ^ (x >> 30 & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    x = (x ^ (x >> 27 & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return x ^ (x >> 31 & 0x1FFFFFFFF)


class ChosenLatents(NamedTuple):
    """A sample of latents: their numbers, their stratum, and how many latents of the dictionary each represents."""

    latents: list[int]
    strata: list[int]
    weights: list[float]


def choose_latents(counts: Tensor, least: int, wanted: int, strata: int, seed: int) -> ChosenLatents:
    """Sample latents stratified by density.

    The latents that fired at least ``least`` times are sorted by frequency (``counts``: ``[n]``), divided into ``strata``
    equal groups, and equally many are sampled from each: those with the smallest hash of seed and number, so that
    autoencoders whose latents correspond (checkpoints of one run, a damaged copy) are compared on mostly the same ones.
    """
    able = (counts >= least).nonzero().squeeze(1)
    able = able[counts[able].argsort(stable=True)]
    strata = max(1, min(strata, wanted, able.numel()))
    chosen = ChosenLatents([], [], [])
    for number, group in enumerate(able.tensor_split(strata)):
        share = min(wanted // strata + (number < wanted % strata), group.numel())
        zeros = torch.zeros_like(group)
        drawn = group[sample_priorities(seed, group, zeros, zeros).argsort()[:share]].sort().values
        chosen.latents.extend(drawn.tolist())
        chosen.strata.extend([number] * share)
        chosen.weights.extend([group.numel() / share] * share if share else [])
    return chosen
