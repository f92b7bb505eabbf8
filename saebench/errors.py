"""The exception for errors that a user causes, the check of numbers that a user sets, and text made safe to show."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

NOT_SHOWN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
"""Unicode categories of characters that control a terminal, reorder text or have no shape."""


LONGEST = 500
"""Characters of an error's message: a file can put a text of any length where a name is expected."""


def plain(text: str) -> str:
    """One line of ``text`` without characters that control a terminal or reorder text."""
    if text.isprintable():
        return text
    kept = (" " if character in "\t\r\n" else character for character in text)
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(each) in NOT_SHOWN else each for each in kept)


def shortened(text: str, longest: int = LONGEST) -> str:
    """A text without its middle, where it is longer: beginnings name the file, ends say what to do."""
    if len(text) <= longest:
        return text
    end = longest // 3
    return f"{text[: longest - end - 5].rstrip()} ... {text[-end:].lstrip()}"


class SaebenchError(Exception):
    """An argument, a file or the environment of the user is invalid.

    Its message is one plain sentence that says what is wrong and what to do. The command line prints it and exits
    with code 2; the library raises it. Names from files in it are shown without control characters, and a message of more
    than 500 characters without its middle.
    """

    longest = LONGEST

    def __str__(self) -> str:
        """The message, safe to print."""
        return shortened(plain(super().__str__()), self.longest)


class ChoicesError(SaebenchError):
    """An error that lists everything saebench knows, and may be longer for it."""

    longest = 2000


def check_at_least(settings: object, least: Mapping[str, float], of: str = "") -> None:
    """Check the numbers of a dataclass of settings.

    Args:
        settings: their values are attributes; None counts as not set.
        least: the smallest value allowed, by attribute.
        of: further words on the settings for the message, such as `` of the protocol``.

    Raises:
        SaebenchError: a value is smaller, or NaN.
    """
    for name, bound in least.items():
        value = getattr(settings, name)
        if value is not None and not value >= bound:
            raise SaebenchError(f"{name}{of} is {value}; it must be at least {bound:g}.")
