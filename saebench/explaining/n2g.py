"""Neuron2Graph: what makes a latent fire, as a trie built from a few of its activations.

Source: Foote et al. 2023; the rules are those of the code released with Gao et al. 2024 (section 4.3). The steps are taken
for all examples of many latents at once: texts of one length go through the model together.

1. The shortest suffix of an example that, alone, keeps half of the activation.
2. Whether it still does with one padding token in front; if not, the path carries the mark of the text's start.
3. Each token in turn is replaced by padding; where that costs less than half, it becomes a wildcard.
4. Augmentation, where the protocol has it: tokens that matter are replaced by similar ones, and what still fires is added.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from saebench.explaining.protocol import Protocol
from saebench.explaining.reader import LatentReader
from saebench.explaining.trie import ANY, Path, Trie

Substitutes = Callable[[Tensor], Tensor]
"""Maps tokens ``[tokens]`` to ``[tokens, candidates]``."""


class Examples(NamedTuple):
    """Activations to build tries from.

    Attributes:
        latents: ``[examples]``.
        tokens: ``[examples, window]``, each text up to the activation's own token, at the right.
        lengths: ``[examples]``, how many of them there are.
        values: ``[examples]`` float64, the activations.
    """

    latents: Tensor
    tokens: Tensor
    lengths: Tensor
    values: Tensor


def cut_examples(
    corpus_tokens: Tensor, latents: Tensor, rows: Tensor, positions: Tensor, values: Tensor, window: int, first: int
) -> Examples:
    """Cut each example behind its activation, and ``window`` tokens before.

    Args:
        corpus_tokens: ``[rows, context]``.
        latents, rows, positions, values: ``[examples]`` each.
        window: tokens kept at most.
        first: where text begins in a row.
    """
    places = positions.unsqueeze(1) - torch.arange(window - 1, -1, -1)
    tokens = corpus_tokens[rows.unsqueeze(1), places.clamp_min(0)]
    return Examples(latents, tokens, (positions - first + 1).clamp_max(window), values.double())


@dataclass
class _Subsequences:
    """Suffixes of one length: ``[n, length]`` tokens, and per suffix its example, activation and findings."""

    examples: Tensor
    latents: Tensor
    tokens: Tensor
    values: Tensor
    originals: Tensor
    at_start: Tensor
    matters: Tensor


def build_tries(
    reader: LatentReader, examples: Examples, padding: int, protocol: Protocol, substitutes: Substitutes | None = None
) -> dict[int, Trie]:
    """A trie for each latent that has examples.

    Args:
        reader: gives activations.
        examples: of all latents together; where two examples lead to the same path, the later one's value is kept.
        padding: the token that stands for "nothing".
        protocol: thresholds.
        substitutes: similar tokens, for augmentation.
    """
    sizes, values = _shortest_suffixes(reader, examples, protocol.activation_kept)
    paths: dict[int, tuple[int, Path]] = {}
    added: dict[int, list[Path]] = defaultdict(list)
    for length in sizes.unique().tolist():
        which = (sizes == length).nonzero().squeeze(1)
        tokens, latents = examples.tokens[which, -length:], examples.latents[which]
        originals, own = examples.values[which], values[which]
        padded = reader.read(F.pad(tokens, (1, 0), value=padding), latents)
        at_start = padded < protocol.activation_kept * originals
        matters = _important(reader, tokens, latents, own, padding, protocol.saliency)
        group = _Subsequences(which, latents, tokens, own, originals, at_start, matters)
        patterns = torch.where(matters, tokens, ANY).tolist()
        for number, pattern in enumerate(patterns):
            path = Path(tuple(pattern), bool(at_start[number]), float(own[number]))
            paths[int(which[number])] = (int(latents[number]), path)
        if substitutes is not None and protocol.candidates:
            for latent, path in _augmented(reader, group, substitutes, protocol.candidate_kept):
                added[latent].append(path)
    tries = {latent: Trie() for latent in dict.fromkeys(examples.latents.tolist())}
    for _, (latent, path) in sorted(paths.items()):
        tries[latent].insert(path)
    for latent, extra in added.items():
        for path in extra:
            tries[latent].insert(path, replace=False)
    return tries


def _shortest_suffixes(reader: LatentReader, examples: Examples, kept: float) -> tuple[Tensor, Tensor]:
    """``(lengths, activations)``, ``[examples]`` each. Where no suffix keeps enough: all of the text, and its activation."""
    sizes, values = examples.lengths.clone(), examples.values.clone()
    searching = torch.ones_like(sizes, dtype=torch.bool)
    for length in range(1, int(sizes.max()) + 1 if sizes.numel() else 0):
        which = (searching & (examples.lengths >= length)).nonzero().squeeze(1)
        if not which.numel():
            break
        found = reader.read(examples.tokens[which, -length:], examples.latents[which])
        enough = found >= kept * examples.values[which]
        sizes[which[enough]], values[which[enough]] = length, found[enough]
        searching[which[enough]] = False
    return sizes, values


def _important(
    reader: LatentReader, tokens: Tensor, latents: Tensor, values: Tensor, padding: int, saliency: float
) -> Tensor:
    """``[n, length]`` bool: the tokens whose replacement by padding costs at least ``saliency`` of the activation."""
    n, length = tokens.shape
    variants = tokens.unsqueeze(1).repeat(1, length, 1)
    every = torch.arange(length)
    variants[:, every, every] = padding
    found = reader.read(variants.flatten(0, 1), latents.repeat_interleave(length)).view(n, length)
    return 1 - found / values.unsqueeze(1) >= saliency


def _augmented(reader: LatentReader, group: _Subsequences, substitutes: Substitutes, kept: float) -> list[tuple[int, Path]]:
    """``(latent, path)`` for each single substitution after which the latent still fires."""
    which, places = group.matters.nonzero(as_tuple=True)
    if not which.numel():
        return []
    candidates = substitutes(group.tokens[which, places])
    n_candidates = candidates.shape[1]
    which, places = which.repeat_interleave(n_candidates), places.repeat_interleave(n_candidates)
    every = torch.arange(which.numel())
    variants = group.tokens[which]
    variants[every, places] = candidates.flatten()
    found = reader.read(variants, group.latents[which])
    patterns = torch.where(group.matters[which], variants, ANY)
    return [
        (
            int(group.latents[which[each]]),
            Path(tuple(patterns[each].tolist()), bool(group.at_start[which[each]]), float(found[each])),
        )
        for each in (found >= kept * group.values[which]).nonzero().squeeze(1).tolist()
    ]
