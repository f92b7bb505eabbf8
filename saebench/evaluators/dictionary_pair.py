"""Two dictionaries side by side: are they the same features (seed stability), and does the larger split the smaller's?

Sources: Leask et al. 2025 for reconstruction and novel latents and the cosine that separates them; Hungarian matching of
two runs after Paulo and Belrose 2025, "Sparse autoencoders trained on the same data learn different features".
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from saebench.errors import SaebenchError
from saebench.evaluators.dictionary import SIMILAR, latent_metric
from saebench.evaluators.geometry import direction_chunks, matched_random_chunks, nearest
from saebench.lm.hooks import parse_hook
from saebench.results import Metric
from saebench.sae import CheckpointInfo, SparseAutoencoder

MOST_PAIRS = 8192**2
"""Larger matrices of cosines are not matched: the time grows with the cube of the number of latents."""


def check_pair(one: CheckpointInfo, other: CheckpointInfo) -> None:
    """Raise ``SaebenchError`` where two dictionaries do not write the same space."""
    if one.d_out != other.d_out:
        raise SaebenchError(
            f"{one.origin} writes {one.d_out} values and {other.origin} {other.d_out}: only dictionaries on the same hook "
            "can be compared."
        )
    hooks = [parse_hook(hook).name for info in (one, other) if (hook := info.hook_out or info.hook_in) is not None]
    if len(set(hooks)) > 1:
        raise SaebenchError(
            f"{one.origin} writes at {hooks[0]} and {other.origin} at {hooks[1]}: only dictionaries on the same hook "
            "can be compared."
        )


@torch.no_grad()
def compare(one: SparseAutoencoder, other: SparseAutoencoder, seed: int) -> tuple[list[Metric], dict[str, Any]]:
    """``(metrics, details)`` of two dictionaries on the same hook.

    Raises:
        SaebenchError: they write spaces of different widths, or at different hooks.
    """
    check_pair(one.info, other.info)
    there, number_there = nearest(one.W_dec, direction_chunks(other.W_dec))
    back, number_back = nearest(other.W_dec, direction_chunks(one.W_dec))
    random, _ = nearest(one.W_dec, matched_random_chunks(other.W_dec, other.n_latents, seed))
    matched = hungarian(one.W_dec, other.W_dec)
    metrics = [
        latent_metric(
            "mean_max_cosine", there, "Mean cosine of A's latents with their nearest in B", "cosine", None, "higher"
        ),
        latent_metric(
            "mean_max_cosine_back", back, "Mean cosine of B's latents with their nearest in A", "cosine", None, "higher"
        ),
        latent_metric(
            "shared", (there >= SIMILAR).float(), f"A's latents with one of B at {SIMILAR} or more", direction="higher"
        ),
        latent_metric(
            "random_mean_max_cosine", random, "The first for a random dictionary of B's size and second moments", "cosine"
        ),
        latent_metric(
            "random_match_share",
            (random >= there).float(),
            "A's latents to which such a random dictionary comes as near as B",
            direction="lower",
        ),
        *_matching(matched, one.n_latents * other.n_latents),
        *_splitting(one.n_latents, other.n_latents, (there, number_there), (back, number_back)),
    ]
    return metrics, {"latents": [one.n_latents, other.n_latents], "similar": SIMILAR}


def hungarian(one: Tensor, other: Tensor) -> Tensor | None:
    """``[min(n, m)]``: cosines of the one-to-one matching of directions (``[n, d]``, ``[m, d]``) whose sum is largest.

    None where the matrix of cosines would be too large.
    """
    if one.shape[0] * other.shape[0] > MOST_PAIRS:
        return None
    cosines = (F.normalize(one.float(), dim=1) @ F.normalize(other.float(), dim=1).T).cpu()
    rows, columns = linear_sum_assignment(cosines.numpy(), maximize=True)
    return cosines[torch.from_numpy(rows), torch.from_numpy(columns)]


def _matching(matched: Tensor | None, pairs: int) -> list[Metric]:
    reason = None if matched is not None else f"{pairs:,} pairs are too many to match one to one: at most {MOST_PAIRS:,}"
    values = torch.zeros(0) if matched is None else matched
    return [
        latent_metric(
            "matched_cosine", values, "Mean cosine of the best one-to-one matching (Hungarian)", "cosine", reason, "higher"
        ),
        latent_metric(
            "matched_share",
            (values >= SIMILAR).float(),
            f"Pairs of that matching at {SIMILAR} or more",
            "share of pairs",
            reason,
            "higher",
        ),
    ]


def _splitting(n: int, m: int, there: tuple[Tensor, Tensor], back: tuple[Tensor, Tensor]) -> list[Metric]:
    """Feature splitting between dictionaries of different size.

    A latent of the larger one belongs to its nearest in the smaller where their cosine reaches ``SIMILAR``; else it is
    novel. A latent of the smaller one is split where two or more belong to it.
    """
    reason = "both dictionaries have the same size" if n == m else None
    cosine, parent = (torch.zeros(0), torch.zeros(0, dtype=torch.int64)) if n == m else there if n > m else back
    belongs = cosine >= SIMILAR
    children = torch.bincount(parent[belongs], minlength=0 if n == m else min(n, m))
    with_children = children[children > 0].float()
    novel, split = (~belongs).float(), (children >= 2).float()
    none = "no latent of the larger belongs to one of the smaller" if not with_children.numel() else None
    return [
        latent_metric(
            "novel_share", novel, f"The larger's latents that reach {SIMILAR} with none of the smaller", reason=reason
        ),
        latent_metric(
            "split_share", split, "The smaller's latents to which two or more of the larger belong", reason=reason
        ),
        latent_metric(
            "children",
            with_children,
            "The larger's latents for each of the smaller's that has any",
            "latents",
            reason or none,
        ),
    ]
