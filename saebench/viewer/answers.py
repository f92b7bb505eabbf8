"""What the viewer answers to requests for data: a function for each path, whatever server calls it."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from saebench.errors import SaebenchError
from saebench.viewer.content import Content
from saebench.viewer.live import Live

PATIENCE = 20.0
"""Seconds that a request waits for weights that are still loading."""
Query = dict[str, str]


class Viewer:
    """Answers requests for data: a function for each path."""

    def __init__(self, content: Content, live: Live | None) -> None:
        self.content, self.live = content, live
        self.routes: dict[str, Callable[[Query], Any]] = {
            "/api/overview": self._overview,
            "/api/latents": self._latents,
            "/api/latent": lambda query: content.latent(_number(query, "latent")),
            "/api/neighbours": self._neighbours,
            "/api/lens": lambda query: self._needs_live().lens(self._latent(query), PATIENCE),
            "/api/search": self._search,
            "/api/jump": self._jump,
        }

    def _overview(self, query: Query) -> Any:
        has_model = self.live is not None and self.live.has_model
        return self.content.overview() | {"weights": self.live is not None, "live": has_model}

    def _latents(self, query: Query) -> Any:
        return self.content.listing(query.get("show", "all"), query.get("sort", "number"), _number(query, "page", "0"))

    def _neighbours(self, query: Query) -> Any:
        found = self._needs_live().neighbours(self._latent(query), PATIENCE)
        densities = self.content.densities([latent for latent, _ in found])
        return [{"latent": latent, "cosine": cosine, "density": density}
                for (latent, cosine), density in zip(found, densities, strict=True)]  # fmt: skip

    def _search(self, query: Query) -> Any:
        found = dict(self._needs_live().search(query.get("text", ""), PATIENCE))
        densities = self.content.densities([each["latent"] for each in found["latents"]])
        found["latents"] = [each | {"density": density} for each, density in zip(found["latents"], densities, strict=True)]
        return found

    def _jump(self, query: Query) -> Any:
        shown = _number(query, "shown") if "shown" in query else None
        return {"latent": self.content.jump(query.get("kind", ""), secrets.randbelow(2**32) / 2**32, shown)}

    def _latent(self, query: Query) -> int:
        number = _number(query, "latent")
        if number >= self.content.n_latents:
            raise SaebenchError(f"There is no latent {number}: they are numbered 0 to {self.content.n_latents - 1:,}.")
        return number

    def _needs_live(self) -> Live:
        if self.live is None:
            raise SaebenchError("This viewer runs without the autoencoder's weights.")
        return self.live


def _number(query: Query, name: str, default: str = "") -> int:
    text = query.get(name, default)
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise SaebenchError(f"{name} must be a whole number.")
    return int(text)
