"""The prompt for an explanation: windows with their active tokens marked, and the activations of these."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from saebench.explaining.llm.answers import Explanation
from saebench.explaining.llm.endpoint import Prompt
from saebench.explaining.llm.protocol import Protocol, WindowSection, make_prompt
from saebench.explaining.llm.windows import Material, Window


class WindowWriter:
    """Writes windows as text.

    Args:
        vocabulary: each token as text.
        marks: the marks.
    """

    def __init__(self, vocabulary: Sequence[str], marks: WindowSection) -> None:
        self.vocabulary, self.marks = vocabulary, marks

    def pieces(self, window: Window) -> list[str]:
        """Its tokens: line breaks written as ``\\n``, the marks' own characters replaced, ``<s>`` written as ``[s]``."""
        marks = self.marks
        shown = {"\n": "\\n", "\r": "\\r", marks.open: "<", marks.close: ">"}
        return [_replaced(_escape_control_tokens(self.vocabulary[token]), shown) for token in window.tokens]

    def text(self, window: Window, marked: Iterable[int] = ()) -> str:
        """The window in one line; runs of marked tokens are enclosed in marks."""
        marks, positions = self.marks, set(marked)
        text = ""
        for index, piece in enumerate(self.pieces(window)):
            inside = index in positions
            if inside and index - 1 not in positions:
                text += marks.open
            text += piece
            if inside and index + 1 not in positions:
                text += marks.close
        return text.strip(" ")


class Writer(WindowWriter):
    """As ``WindowWriter``, with the marks of a protocol."""

    def __init__(self, vocabulary: Sequence[str], protocol: Protocol) -> None:
        super().__init__(vocabulary, protocol.window)
        self.protocol = protocol


def explanation_prompt(material: Material, writer: Writer) -> Prompt:
    """The question for one latent's explanation."""
    protocol = writer.protocol
    share, scale = protocol.window.mark_share, protocol.simulation.scale
    examples = []
    for window in material.shown:
        marked, pieces = window.marked(share), writer.pieces(window)
        values = [(pieces[index].strip() or repr(pieces[index])[1:-1], window.activations[index]) for index in marked]
        scaled = [(token, max(1, round(scale * value / material.maximum))) for token, value in values]
        examples.append({"text": writer.text(window, marked), "marked": scaled})
    return make_prompt(protocol, "explanation", Explanation, examples=examples)


_CONTROL = re.compile(r"<(\||/?)([^<>|]+)\1?>")
_CONTROL_WORDS = {"s", "bos", "eos", "pad", "unk", "mask", "cls", "sep", "start_of_turn", "end_of_turn"}


def _escape_control_tokens(piece: str) -> str:
    """Escape control tokens, so that they are not control tokens of the explaining model."""
    found = _CONTROL.fullmatch(piece)
    if found is None or not (found.group(1) == "|" or found.group(2).lower() in _CONTROL_WORDS):
        return piece
    return f"[{piece[1:-1].strip('|')}]"


def _replaced(piece: str, table: dict[str, str]) -> str:
    for old, new in table.items():
        piece = piece.replace(old, new)
    return piece
