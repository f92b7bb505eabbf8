"""Exact top-k over wide rows, several times as fast as a plain ``topk`` on a CPU."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def top_k(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` largest entries of each row and their columns, in no particular order.

    The columns are divided into groups. The ``k`` largest entries are in the ``k`` groups with the largest maxima (for a
    group outside them there are ``k`` entries elsewhere at least as large), so only those groups are searched. Groups
    of ``sqrt(columns / k)`` columns make both rankings equally short.

    Args:
        x: ``[rows, columns]``.
        k: how many, at most ``columns``.

    Returns:
        ``(values, indices)``, each ``[rows, k]``.
    """
    rows, columns = x.shape
    members = 2 ** round(math.log2(max(1.0, math.sqrt(columns / k))))
    groups = columns // members
    if x.device.type != "cpu" or members < 4 or groups <= k or not x.is_contiguous():
        values, indices = x.topk(k, dim=-1, sorted=False)
        return values, indices
    body = x[:, : groups * members].unflatten(-1, (members, groups))  # group g holds columns g, g + groups, ...
    chosen = body.amax(dim=1).topk(k, dim=-1, sorted=False).indices
    candidates = body.gather(2, chosen.unsqueeze(1).expand(-1, members, -1)).flatten(1)
    members_of = torch.arange(0, groups * members, groups, device=x.device)
    numbers = (chosen.unsqueeze(1) + members_of[:, None]).flatten(1)
    if groups * members < columns:  # the few columns left over are candidates too
        rest = torch.arange(groups * members, columns, device=x.device)
        candidates = torch.cat([candidates, x[:, rest]], dim=-1)
        numbers = torch.cat([numbers, rest.expand(rows, -1)], dim=-1)
    values, slots = candidates.topk(k, dim=-1, sorted=False)
    return values, numbers.gather(-1, slots)
