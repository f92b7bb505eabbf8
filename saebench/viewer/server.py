"""The local server: pages and JSON from memory, GET only, for this machine's own browser.

Requests must name this server in their Host header (a page elsewhere could otherwise reach it under a name of its own that
resolves to this machine), and the data cannot be asked for from other sites' pages. There is nothing to write to.
"""

from __future__ import annotations

import ipaddress
import json
import secrets
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from saebench.errors import SaebenchError
from saebench.viewer.content import Content
from saebench.viewer.live import Live, NotReady
from saebench.viewer.page import asset, render_page

PATIENCE = 20.0
"""Seconds that a request waits for weights that are still loading."""
LONGEST_QUERY = 16_384
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
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
        return self.content.listing(query.get("show", "all"), query.get("sort", "number"), _number(query, "page"))

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
        return {"latent": self.content.jump(query.get("kind", ""), secrets.randbelow(2**32) / 2**32)}

    def _latent(self, query: Query) -> int:
        number = _number(query, "latent")
        if number >= self.content.n_latents:
            raise SaebenchError(f"There is no latent {number}: they are numbered 0 to {self.content.n_latents - 1:,}.")
        return number

    def _needs_live(self) -> Live:
        if self.live is None:
            raise SaebenchError("This viewer runs without the autoencoder's weights.")
        return self.live


def _number(query: Query, name: str) -> int:
    text = query.get(name, "0")
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise SaebenchError(f"{name} must be a whole number.")
    return int(text)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version, protocol_version = "saebench", "", "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        self._answer(*self._find())

    def _find(self) -> tuple[HTTPStatus, str, bytes]:
        if self.headers.get("Host", "").lower() not in self.server.names:
            return _plain(HTTPStatus.MISDIRECTED_REQUEST, "This server answers to its own name only.")
        if len(self.path) > LONGEST_QUERY:
            return _plain(HTTPStatus.REQUEST_URI_TOO_LONG, "The address is too long.")
        path, query = urlsplit(self.path).path, urlsplit(self.path).query
        if path in self.server.files:
            return HTTPStatus.OK, *self.server.files[path]
        route = self.server.viewer.routes.get(path)
        if route is None:
            return _plain(HTTPStatus.NOT_FOUND, "There is no such page.")
        if self.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            return _plain(HTTPStatus.FORBIDDEN, "Other sites' pages may not read from here.")
        try:
            asked = {name: values[-1] for name, values in parse_qs(query, max_num_fields=8).items()}
        except ValueError:
            return _plain(HTTPStatus.BAD_REQUEST, "There are too many parameters.")
        return _json(route, asked)

    def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in (*HEADERS.items(), ("Content-Type", kind), ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: requests hold what the user types."""


def _json(route: Callable[[Query], Any], query: Query) -> tuple[HTTPStatus, str, bytes]:
    status = HTTPStatus.OK
    try:
        data = route(query)
    except NotReady:
        status, data = HTTPStatus.ACCEPTED, {"loading": True}  # the page asks again
    except SaebenchError as error:
        status, data = HTTPStatus.BAD_REQUEST, {"error": str(error)}
    except Exception as error:  # a broken page must not look like an endless one
        status, data = HTTPStatus.INTERNAL_SERVER_ERROR, {"error": f"{type(error).__name__}: {error}"}
    return status, "application/json", json.dumps(data, allow_nan=False).encode()


def _plain(status: HTTPStatus, words: str) -> tuple[HTTPStatus, str, bytes]:
    return status, "text/plain; charset=utf-8", words.encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, viewer: Viewer, host: str, port: int) -> None:
        self.viewer = viewer
        self.files = {
            "/": ("text/html; charset=utf-8", render_page(viewer.content.overview()["name"]).encode()),
            "/view.css": ("text/css; charset=utf-8", asset("view.css").encode()),
            "/view.js": ("text/javascript; charset=utf-8", asset("view.js").encode()),
        }
        super().__init__((host, port), _Handler)
        bound = self.server_address[1]
        hosts = {host.lower(), *(("localhost", "127.0.0.1") if ipaddress.ip_address(host).is_loopback else ())}
        self.names = {f"{name}:{bound}" for name in hosts} | (hosts if bound == 80 else set())

    @property
    def address(self) -> str:
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}/"


def serve(content: Content, live: Live | None, host: str = "127.0.0.1", port: int = 0) -> _Server:
    """A server bound to its port and not yet running: call ``serve_forever``; ``address`` is where it is.

    Args:
        content: what to show.
        live: the weights and the language model, or None.
        host: an IPv4 address of this machine; the loopback one by default.
        port: any free one with 0.

    Raises:
        SaebenchError: the address cannot be used, or stands for all of the machine's addresses.
    """
    try:
        if ipaddress.IPv4Address(host).is_unspecified:
            raise SaebenchError(f"{host} stands for every address: name the one that browsers will use.")
        return _Server(Viewer(content, live), host, port)
    except ipaddress.AddressValueError as error:
        raise SaebenchError(f"{host} is not an IPv4 address, such as 127.0.0.1.") from error
    except (OSError, OverflowError) as error:
        raise SaebenchError(f"Cannot serve at {host}:{port}: {getattr(error, 'strerror', None) or error}.") from error
