"""The console that commands print to: what it shows cannot control a terminal, wherever the text comes from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderHook, RenderResult
from rich.segment import Segment

from saebench.errors import plain


def terminal(**options: Any) -> Console:
    """A console of rich (which takes the ``options``) that shows control characters as U+FFFD."""
    console = Console(**options)
    console.push_render_hook(_Escaping())
    return console


class _Escaping(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Escaped(each) for each in renderables]


class _Escaped:
    """Another renderable, with the text of its segments made plain; styles and cursor movements of rich stay."""

    def __init__(self, inner: RenderableType) -> None:
        self.inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self._segments(console, options)

    def _segments(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for segment in console.render(self.inner, options):
            if segment.control:
                yield segment
            else:
                lines = (plain(line) for line in segment.text.split("\n"))
                yield Segment("\n".join(lines), segment.style)
