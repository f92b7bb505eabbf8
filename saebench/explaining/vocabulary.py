"""Each token as readable text, for people and for explaining language models."""

from __future__ import annotations

from functools import cache
from typing import Any

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def token_strings(tokenizer: Any) -> list[str]:
    """Each token's text, by number; leading spaces are kept, and bytes that are not a whole character are written as
    ``\\xe2``."""
    pieces: list[str | None] = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    special = set(tokenizer.all_special_ids)
    texts: list[str] = tokenizer.batch_decode(
        [[number] for number in range(len(pieces))], clean_up_tokenization_spaces=False
    )
    return [
        (piece or "") if number in special else _readable(piece or "", text)
        for number, (piece, text) in enumerate(zip(pieces, texts, strict=True))
    ]


def _readable(piece: str, text: str) -> str:
    if REPLACEMENT in text:
        return _escaped(piece)
    if piece.startswith("▁") and not text.startswith(" "):  # SentencePiece drops it at the start of a text
        return " " + text
    return text


def _escaped(piece: str) -> str:
    """A byte-level token that is not UTF-8 by itself, with its ASCII characters unchanged."""
    if piece.startswith("<0x") and piece.endswith(">"):
        return "\\x" + piece[3:-1].lower()
    table = _byte_characters()
    if any(character not in table for character in piece):
        return piece
    return "".join(chr(table[each]) if 32 <= table[each] < 127 else f"\\x{table[each]:02x}" for each in piece)


@cache
def _byte_characters() -> dict[str, int]:
    """The characters that represent bytes in byte-level BPE vocabularies: printable Latin-1, then from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in set(printable)]
    return table | {chr(256 + place): byte for place, byte in enumerate(others)}
