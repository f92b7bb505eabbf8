"""The local server: pages and JSON from memory, GET only, for this machine's own browser.

Requests must name this server in their Host header (a page elsewhere could otherwise reach it under a name of its own that
resolves to this machine), and the data cannot be requested from other sites' pages. There is nothing to write to. Starlette
and uvicorn are the extra ``view``.
"""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from saebench.errors import SaebenchError
from saebench.report.page import asset
from saebench.viewer.answers import Query, Viewer
from saebench.viewer.content import Content
from saebench.viewer.live import Live, NotReady
from saebench.viewer.page import SCRIPT, STYLE, render_page

LONGEST_QUERY = 16_384
MOST_PARAMETERS = 8
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "saebench",
}


class Guard:
    """Refuses requests under another name, of other sites or of absurd length, and sets the headers of every answer."""

    def __init__(self, app: ASGIApp, names: set[str]) -> None:
        self.app, self.names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand on to the application."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refused = self._refusal(scope) if scope["type"] == "http" else None
        await (refused or self.app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if headers.get("host", "").lower() not in self.names:
            return _plain(HTTPStatus.MISDIRECTED_REQUEST, "This server answers to its own name only.")
        if not ((scope["raw_path"] or b"") + scope["query_string"]).isascii():
            return _plain(HTTPStatus.BAD_REQUEST, "The address holds bytes that are not ASCII.")
        if len(scope["raw_path"] or b"") + len(scope["query_string"]) > LONGEST_QUERY:
            return _plain(HTTPStatus.REQUEST_URI_TOO_LONG, "The address is too long.")
        if scope["path"].startswith("/api/") and headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return _plain(HTTPStatus.FORBIDDEN, "Other sites' pages may not read from here.")
        return None


def application(viewer: Viewer) -> Starlette:
    """The pages and the data of a viewer."""
    page = render_page(viewer.content.overview()["name"])
    files = {
        "/": ("text/html", page),
        f"/{STYLE}": ("text/css", asset(STYLE)),
        f"/{SCRIPT}": ("text/javascript", asset(SCRIPT)),
    }
    routes = [Route(path, _file(kind, text), methods=["GET"]) for path, (kind, text) in files.items()]
    routes += [Route(path, _data(answer), methods=["GET"]) for path, answer in viewer.routes.items()]
    refusals: dict[Any, Any] = {
        HTTPStatus.NOT_FOUND: lambda request, error: _plain(HTTPStatus.NOT_FOUND, "There is no such page."),
        HTTPStatus.METHOD_NOT_ALLOWED: lambda request, error: _plain(HTTPStatus.METHOD_NOT_ALLOWED, "There is only GET."),
    }
    return Starlette(routes=routes, exception_handlers=refusals)


def _file(kind: str, text: str) -> Callable[[Request], Response]:
    return lambda request: Response(text, media_type=kind)


def _data(answer: Callable[[Query], Any]) -> Callable[[Request], Response]:
    """The endpoint of a path of data; it runs in a thread of its own."""

    def endpoint(request: Request) -> Response:
        status = HTTPStatus.OK
        try:
            given = parse_qs(request.url.query, keep_blank_values=True, max_num_fields=MOST_PARAMETERS)
        except ValueError:
            return _plain(HTTPStatus.BAD_REQUEST, "There are too many parameters.")
        try:
            data = answer({name: values[-1] for name, values in given.items()})
        except NotReady:
            status, data = HTTPStatus.ACCEPTED, {"loading": True}  # the page asks again
        except SaebenchError as error:
            status, data = HTTPStatus.BAD_REQUEST, {"error": str(error)}
        except Exception as error:  # a broken page must not look like an endless one
            status, data = HTTPStatus.INTERNAL_SERVER_ERROR, {"error": f"{type(error).__name__}: {error}"}
        return Response(json.dumps(data, allow_nan=False), status, media_type="application/json")

    return endpoint


def _plain(status: HTTPStatus, words: str) -> Response:
    return PlainTextResponse(words, status)


class ViewerServer:
    """A server bound to its port. ``serve_forever`` runs it until ``shutdown``; leaving the context closes the port.

    Attributes:
        address: where it is.
    """

    def __init__(self, viewer: Viewer, host: str, port: int) -> None:
        self._socket = socket.create_server((host, port))
        bound = self.server_address[1]
        hosts = {host.lower(), *(("localhost", "127.0.0.1") if ipaddress.ip_address(host).is_loopback else ())}
        names = {f"{name}:{bound}" for name in hosts} | (hosts if bound == 80 else set())
        settings = uvicorn.Config(
            Guard(application(viewer), names), http="h11", ws="none", lifespan="off", server_header=False,
            access_log=False, log_config=None, log_level="critical",
        )  # fmt: skip
        self._server = uvicorn.Server(settings)

    def __enter__(self) -> ViewerServer:
        return self

    def __exit__(self, *raised: object) -> None:
        self._socket.close()

    @property
    def server_address(self) -> tuple[str, int]:
        """Host and port."""
        host, port = self._socket.getsockname()[:2]
        return str(host), int(port)

    @property
    def address(self) -> str:
        """As a browser takes it."""
        host, port = self.server_address
        return f"http://{host}:{port}/"

    def serve_forever(self) -> None:
        """Answer requests until ``shutdown``, or Ctrl-C (``KeyboardInterrupt``)."""
        self._server.run(sockets=[self._socket])

    def shutdown(self) -> None:
        """Make ``serve_forever`` return."""
        self._server.should_exit = True


def serve(content: Content, live: Live | None, host: str = "127.0.0.1", port: int = 0) -> ViewerServer:
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
        return ViewerServer(Viewer(content, live), host, port)
    except ipaddress.AddressValueError as error:
        raise SaebenchError(f"{host} is not an IPv4 address, such as 127.0.0.1.") from error
    except (OSError, OverflowError) as error:
        raise SaebenchError(f"Cannot serve at {host}:{port}: {getattr(error, 'strerror', None) or error}.") from error
