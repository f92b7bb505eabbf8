"""Where a word ends in a tokenised text, found with the tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def tokens_of(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, without special tokens."""
    if not texts:
        return []
    return [list(each) for each in tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]]


def last_tokens(tokenizer: Any, beginnings: Sequence[str], wholes: Sequence[str]) -> list[tuple[list[int], int] | None]:
    """Each whole text's token ids, with the position of the last token of its beginning.

    None where the tokenizer joins the beginning's end with what follows, so that no token ends there.
    """
    found: list[tuple[list[int], int] | None] = []
    for begun, ids in zip(tokens_of(tokenizer, beginnings), tokens_of(tokenizer, wholes), strict=True):
        found.append((ids, len(begun) - 1) if begun and ids[: len(begun)] == begun else None)
    return found
