"""The server over real HTTP: what it answers, and what it refuses."""

from __future__ import annotations

import http.client
import json
import socket
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from saebench.errors import SaebenchError
from saebench.viewer.server import serve
from tests.viewer.conftest import DEAD, DENSE, Files, N, running


@pytest.fixture(scope="module")
def address(files: Files) -> Iterator[str]:
    with running(files) as found:
        yield found


def ask(address: str, path: str, method: str = "GET", **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    found = response.status, response.headers, response.read()
    connection.close()
    return found


def data(address: str, path: str) -> Any:
    status, _, body = ask(address, path)
    assert status == 200, body
    return json.loads(body)


def test_page_and_data(address: str) -> None:
    status, headers, body = ask(address, "/")
    assert status == 200 and headers["Content-Type"].startswith("text/html")
    assert b"sae &lt;b&gt;" in body and b"<b>" not in body
    assert data(address, "/api/overview")["n_latents"] == N
    assert len(data(address, "/api/latents?show=all&page=1")["rows"]) == 50
    assert data(address, f"/api/latent?latent={DENSE}")["latent"] == DENSE
    assert len(data(address, "/api/neighbours?latent=3")) == 10
    assert len(data(address, "/api/lens?latent=3")["top"]) == 10
    assert data(address, f"/api/search?text={quote('w5 w6')}")["tokens"] == ["w5", "w6"]
    assert data(address, "/api/jump?kind=dead")["latent"] is not None and DEAD < N


def test_headers(address: str) -> None:
    for path in ("/", "/view.js", "/style.css", "/api/overview", "/nothing"):
        headers = ask(address, path)[1]
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["X-Frame-Options"] == "DENY"
        assert headers["Cache-Control"] == "no-store" and "Access-Control-Allow-Origin" not in headers
        assert headers["Server"].strip() == "saebench"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1:1", ""])
def test_other_names_are_refused(address: str, host: str) -> None:
    for path in ("/", "/api/overview"):
        assert ask(address, path, Host=host)[0] == 421


def test_localhost_is_itself(address: str) -> None:
    assert ask(address, "/api/overview", Host=f"localhost:{urlsplit(address).port}")[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_get_only(address: str, method: str) -> None:
    assert ask(address, "/api/overview", method)[0] == 405


def test_other_sites_pages_are_refused(address: str) -> None:
    assert ask(address, "/api/search?text=w5", **{"Sec-Fetch-Site": "cross-site"})[0] == 403
    assert ask(address, "/api/overview", **{"Sec-Fetch-Site": "same-origin"})[0] == 200


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/nothing", 404, "no such page"),
        ("/../pyproject.toml", 404, "no such page"),
        ("/%2e%2e/pyproject.toml", 404, "no such page"),
        (f"/api/latent?latent={N}", 400, "There is no latent"),
        ("/api/latent?latent=-1", 400, "whole number"),
        ("/api/latent?latent=", 400, "whole number"),
        ("/api/latent", 400, "whole number"),
        ("/api/latent?latent=٣", 400, "whole number"),
        (f"/api/lens?latent={N}", 400, "There is no latent"),
        ("/api/latents?show=x", 400, "no such list"),
        ("/api/jump?kind=x", 400, "no such type"),
        ("/api/search?text=", 400, "Type some text"),
        ("/api/search?text=" + "a" * 20_000, 414, "too long"),
        ("/api/search?" + "&".join(f"a{number}=1" for number in range(20)), 400, "parameters"),
    ],
)
def test_bad_requests(address: str, path: str, status: int, words: str) -> None:
    found, _, body = ask(address, quote(path, safe="/?=&%"))
    assert found == status and words in body.decode()


def test_addresses_that_cannot_be_served(files: Files) -> None:
    from saebench import checkpoints
    from saebench.viewer.content import Content, Extent

    content = Content.open(checkpoints.inspect(files.sae), None, None, Extent())
    for host, port, words in (
        ("0.0.0.0", 0, "stands for every address"),
        ("example.org", 0, "not an IPv4 address"),
        ("127.0.0.1", 99_999, "Cannot serve"),
        ("203.0.113.9", 0, "Cannot serve"),
    ):
        with pytest.raises(SaebenchError, match=words):
            serve(content, None, host, port)
    with serve(content, None) as server, pytest.raises(SaebenchError, match="Cannot serve"):
        serve(content, None, port=server.server_address[1])


def test_a_malformed_request_is_answered_and_nothing_is_printed(address: str, capfd: pytest.CaptureFixture[str]) -> None:
    host, port = urlsplit(address).hostname, urlsplit(address).port
    for line in (b"\x16\x03\x01nonsense\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /\xff HTTP/1.1\r\n\r\n"):
        with socket.create_connection((host, port), timeout=10) as connection:
            connection.sendall(line)
            answer = connection.recv(1000)
        assert answer.startswith(b"HTTP/1.1 4"), answer
    assert data(address, "/api/overview")["n_latents"] == N
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


def test_without_the_extra_one_sentence_says_how_to_install_it(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    from saebench.commands.view import view

    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "saebench.viewer.server")
    monkeypatch.setattr("saebench.viewer.opening.open_viewer", lambda *args, **options: pytest.fail("it was opened first"))
    with pytest.raises(SaebenchError, match=r"needs uvicorn: run `pip install 'saebench\[view\]'`"):
        view(str(files.sae))
