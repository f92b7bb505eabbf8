"""Neuron2Graph: what makes a latent fire, as a trie built from a few of its activations.

Source: Foote et al. 2023; the rules are those of the code released with Gao et al. 2024 (section 4.3). The steps are done
for all examples of many latents at once, and common prefixes of their texts run through the model once.

1. The shortest suffix of an example that, alone, keeps half of the activation.
2. Whether it still does with one padding token before it; if not, the path is marked as a start of the text.
3. Each token in turn is replaced by padding; where that reduces the activation by less than half, it becomes a wildcard.
4. Augmentation, where the protocol has it: the other tokens are replaced by similar ones, and paths that still fire are
   added.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from saebench.explaining.n2g.packing import END
from saebench.explaining.n2g.reader import LatentReader
from saebench.explaining.n2g.trie import ANY, Path, Trie
from saebench.explaining.protocol import Protocol

Substitutes = Callable[[Tensor], Tensor]
"""Maps tokens ``[tokens]`` to ``[tokens, candidates]``."""


class Examples(NamedTuple):
    """Activations to build tries from.

    Attributes:
        latents: ``[examples]``.
        tokens: ``[examples, window]``, each text up to the activation's own token, at the right.
        lengths: ``[examples]``, the number of tokens.
        values: ``[examples]`` float64, the activations.
        positions: ``[examples]``, where in its row of the corpus each text ends.
    """

    latents: Tensor
    tokens: Tensor
    lengths: Tensor
    values: Tensor
    positions: Tensor


def cut_examples(
    corpus_tokens: Tensor, latents: Tensor, rows: Tensor, positions: Tensor, values: Tensor, window: int, first: int
) -> Examples:
    """Truncate each example after its activation, and to ``window`` tokens.

    Args:
        corpus_tokens: ``[rows, context]``.
        latents, rows, positions, values: ``[examples]`` each.
        window: maximum number of tokens.
        first: the position at which text starts in a row.
    """
    places = positions.unsqueeze(1) - torch.arange(window - 1, -1, -1)
    tokens = corpus_tokens[rows.unsqueeze(1), places.clamp_min(0)]
    return Examples(latents, tokens, (positions - first + 1).clamp_max(window), values.double(), positions)


class _Suffixes(NamedTuple):
    """The shortest suffix of each example that keeps enough of the activation.

    Attributes:
        tokens: ``[examples, width]``, each followed by ``END``; ``sizes``: ``[examples]``.
        latents: ``[examples]``; ``values``: ``[examples]`` float64, the suffix's own activation.
    """

    tokens: Tensor
    sizes: Tensor
    latents: Tensor
    values: Tensor


def build_tries(
    reader: LatentReader,
    examples: Examples,
    padding: int,
    protocol: Protocol,
    substitutes: Substitutes | None = None,
    done: Callable[[float], object] = lambda examples: None,
) -> dict[int, Trie]:
    """A trie for each latent that has examples.

    Args:
        reader: gives activations.
        examples: of all latents together; where two examples give the same path, the later one's value is kept.
        padding: the padding token.
        protocol: thresholds.
        substitutes: similar tokens, for augmentation.
        done: called with examples done; half of one where its suffix is found.
    """
    tries = {latent: Trie() for latent in dict.fromkeys(examples.latents.tolist())}
    suffixes = _shortest_suffixes(reader, examples, protocol.activation_kept, done)
    padded, replaced = _with_padding(reader, suffixes, padding, done)
    at_start = padded < protocol.activation_kept * examples.values
    matters = (suffixes.tokens != END) & (1 - replaced / suffixes.values.unsqueeze(1) >= protocol.saliency)
    patterns = torch.where(matters, suffixes.tokens, ANY)
    for number, latent in enumerate(suffixes.latents.tolist()):
        pattern = patterns[number, : int(suffixes.sizes[number])].tolist()
        tries[latent].insert(Path(tuple(pattern), bool(at_start[number]), float(suffixes.values[number])))
    if substitutes is not None and protocol.candidates:
        for latent, path in _augmented(reader, suffixes, at_start, matters, substitutes, protocol.candidate_kept):
            tries[latent].insert(path, replace=False)
    return tries


def _suffixes(tokens: Tensor, sizes: Tensor) -> Tensor:
    """The last ``sizes[i]`` of ``tokens`` (``[n, window]``), at the left and followed by ``END``: ``[n, max(sizes)]``."""
    places = torch.arange(int(sizes.max()) if sizes.numel() else 0)
    found = tokens.gather(1, (tokens.shape[1] - sizes.unsqueeze(1) + places).clamp_max(tokens.shape[1] - 1))
    return found.masked_fill(places >= sizes.unsqueeze(1), END)


def _shortest_suffixes(reader: LatentReader, examples: Examples, kept: float, done: Callable[[float], object]) -> _Suffixes:
    """Where no suffix keeps enough: the whole text, and its activation.

    Suffixes are tried from the shortest; those of different examples that start at the same token of a row are tried at
    the same time, as they are prefixes of each other.
    """
    if not reader.shares:
        return _shortest_of_several(reader, examples, kept, done)
    sizes, values = examples.lengths.clone(), examples.values.clone()
    searching = torch.ones_like(sizes, dtype=torch.bool)
    window = examples.tokens.shape[1]
    wait = window - 1 - examples.positions % window
    for step in range(2 * window):
        lengths = step + 1 - wait
        which = (searching & (lengths >= 1)).nonzero().squeeze(1)
        if not which.numel():
            continue
        found = reader.read(_suffixes(examples.tokens[which], lengths[which]), examples.latents[which])
        enough = found >= kept * examples.values[which]
        sizes[which[enough]], values[which[enough]] = lengths[which[enough]], found[enough]
        ended = which[enough | (lengths[which] == examples.lengths[which])]
        searching[ended] = False
        done(ended.numel() / 2)
    return _Suffixes(_suffixes(examples.tokens, sizes), sizes, examples.latents, values)


def _shortest_of_several(
    reader: LatentReader, examples: Examples, kept: float, done: Callable[[float], object]
) -> _Suffixes:
    """The same where nothing is gained by common prefixes: 1, 2, 4, ... further sizes are tried at the same time."""
    sizes, values = examples.lengths.clone(), examples.values.clone()
    searching, shortest, several = torch.ones_like(sizes, dtype=torch.bool), 1, 1
    while bool(searching.any()):
        tried = torch.arange(shortest, shortest + several)
        owners, lengths = (each.flatten() for each in torch.meshgrid(searching.nonzero().squeeze(1), tried, indexing="ij"))
        possible = lengths <= examples.lengths[owners]
        owners, lengths = owners[possible], lengths[possible]
        found = reader.read(_suffixes(examples.tokens[owners], lengths), examples.latents[owners])
        enough = found >= kept * examples.values[owners]
        sizes.scatter_reduce_(0, owners[enough], lengths[enough], "amin")
        first = enough & (lengths == sizes[owners])
        values[owners[first]] = found[first]
        shortest, several = shortest + several, 2 * several
        ended = searching & ((sizes < shortest) | (examples.lengths < shortest))
        searching &= ~ended
        done(int(ended.sum()) / 2)
    return _Suffixes(_suffixes(examples.tokens, sizes), sizes, examples.latents, values)


def _with_padding(
    reader: LatentReader, suffixes: _Suffixes, padding: int, done: Callable[[float], object]
) -> tuple[Tensor, Tensor]:
    """Activations with padding before the text, ``[examples]``, and in place of each token, ``[examples, width]`` (else
    0)."""
    n, width = suffixes.tokens.shape
    which, places = (suffixes.tokens != END).nonzero(as_tuple=True)
    variants = suffixes.tokens[which]
    variants[torch.arange(which.numel()), places] = padding
    table = torch.cat([F.pad(suffixes.tokens, (1, 0), value=padding), F.pad(variants, (0, 1), value=END)])
    latents = torch.cat([suffixes.latents, suffixes.latents[which]])
    found = reader.read(table, latents, lambda readings: done(n / 2 * readings / table.shape[0]))
    replaced = torch.zeros(n, width, dtype=torch.float64)
    replaced[which, places] = found[n:]
    return found[:n], replaced


def _augmented(
    reader: LatentReader, suffixes: _Suffixes, at_start: Tensor, matters: Tensor, substitutes: Substitutes, kept: float
) -> list[tuple[int, Path]]:
    """``(latent, path)`` for each single substitution after which the latent still fires."""
    which, places = matters.nonzero(as_tuple=True)
    if not which.numel():
        return []
    candidates = substitutes(suffixes.tokens[which, places])
    n_candidates = candidates.shape[1]
    which, places = which.repeat_interleave(n_candidates), places.repeat_interleave(n_candidates)
    variants = suffixes.tokens[which]
    variants[torch.arange(which.numel()), places] = candidates.flatten()
    found = reader.read(variants, suffixes.latents[which])
    still = found >= kept * suffixes.values[which]
    patterns = torch.where(matters[which], variants, ANY)[still]
    paths = []
    for number, pattern, value in zip(which[still].tolist(), patterns.tolist(), found[still].tolist(), strict=True):
        path = Path(tuple(pattern[: int(suffixes.sizes[number])]), bool(at_start[number]), value)
        paths.append((int(suffixes.latents[number]), path))
    return paths
