"""What the viewer reads: explanations, folders of examples and of meta-latents; and requests."""

from __future__ import annotations

import asyncio
import json
import random
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch

from saebench.checkpoints import save_native
from saebench.explaining.examples.collecting import ExampleSettings, collect, write_examples
from saebench.lm import LanguageModel
from saebench.progress import Progress
from saebench.sae import CheckpointInfo, SparseAutoencoder, TopK
from saebench.studies.meta.report import meta_result
from saebench.studies.meta.run import MetaSettings, meta_study
from saebench.studies.study import write_parquet, write_study
from saebench.text.corpus import make_corpus
from saebench.viewer.answers import Viewer
from saebench.viewer.content import Content, Extent
from saebench.viewer.live import Live
from saebench.viewer.server import Guard, application
from tests.conftest import FIXTURES, HOOK
from tests.fuzz.hostile import CONTROL
from tests.fuzz.mutations import BYTES, Files, changed_bytes
from tests.fuzz.reader import Case, Reader
from tests.sample_results import evaluator, sample_result

N = 24


@cache
def info() -> CheckpointInfo:
    """Of the autoencoder whose latents are shown."""
    return CheckpointInfo("made in a test", "saebench", "topk", 32, 32, N, {}, hook_in=HOOK)


@cache
def autoencoder() -> SparseAutoencoder:
    """Random directions."""
    directions = torch.nn.functional.normalize(torch.randn(N, 32, generator=torch.Generator().manual_seed(0)), dim=1)
    return SparseAutoencoder(directions.T.clone(), directions, torch.zeros(N), torch.zeros(32), TopK(4), info())


def _within(folder: Path) -> Files:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _examples(folder: Path) -> list[Case]:
    model = LanguageModel.load(str(FIXTURES / "saelens_evals" / "model"))
    rows = torch.randint(3, 200, (6, 16), generator=torch.Generator().manual_seed(1))
    corpus = make_corpus(rows, model.tokenizer, name="random tokens")
    from saebench import checkpoints

    sae = checkpoints.load(save_native(autoencoder(), folder / "sae"))
    found = collect(sae, model.cut(HOOK), corpus, ExampleSettings.defined(), 6, Progress(False))
    write_examples(found, folder / "examples")
    return [Case(_within(folder / "examples"))]


def _show(content: Content) -> None:
    """Every page's data, as the server and static pages write it."""
    pages: list[Any] = [content.overview(), content.listing("all", "density"), content.listing("explained")]
    pages += [content.latent(number) for number in range(0, N, 5)]
    pages += [content.jump(kind, 0.5) for kind in ("random", "dense", "dead")]
    text = json.dumps(pages, allow_nan=False)
    text.encode("utf-8")


def _read_examples(path: Path, case: Case, kind: str) -> None:
    _show(Content.open(info(), path, None, Extent(top=3, groups=2, each=2)))


def _explanations(_: Path) -> list[Case]:
    path = {"tokens": [5, None, 9], "text": ["w5", "*", "w9"], "at_start": True, "value": 1.25}
    latents = [{"latent": 3, "trie": [path], "f1": 0.5, "precision_interval": [0.25, 0.75], "recall": None}]
    named = {"5": {"explanation": "active on numbers", "scores": {"detection": 0.75}}}
    parts = {
        "explainability": evaluator("explainability", [], {"latents": latents}),
        "llm": evaluator("llm", [], {"latents": named}),
    }
    return [Case({"result.json": sample_result(evaluators=parts).model_dump_json().encode()}, "result.json")]


def _read_explanations(path: Path, case: Case, kind: str) -> None:
    content = Content.open(info(), None, path, Extent())
    assert all(0 <= latent < N for latent in content.explained)
    _show(content)


def _meta(folder: Path) -> list[Case]:
    study = meta_study(autoencoder(), MetaSettings(n=6, active=2, steps=4))
    write_study(meta_result(study), [], folder / "meta")
    write_parquet(study.decomposition(), folder / "meta" / "decomposition.parquet")
    return [
        Case(
            {name: data for name, data in _within(folder / "meta").items() if name in ("meta.json", "decomposition.parquet")}
        )
    ]


def _read_meta(path: Path, case: Case, kind: str) -> None:
    _show(Content.open(info(), None, None, Extent(), path))


REQUESTS = [
    b"/", b"/view.js", b"/api/overview", b"/api/latents?show=all&page=1&sort=density", b"/api/latent?latent=3",
    b"/api/neighbours?latent=3", b"/api/lens?latent=0", b"/api/search?text=w5%20w6", b"/api/jump?kind=dead", b"/api/jump?kind=random",
]  # fmt: skip
PARTS = (b"%00", b"%ff", b"%ud800", b"%", b"%0d%0aX-Evil:%201", b"../../etc/passwd", b"&" * 20, b"?" * 5, b"-1", b"1e3", b"9" * 30,
         "\u0663".encode(), b"\xff\xfe", b"latent=", b"=", b"#x", b"%2e%2e%2f", b"x" * 20_000, CONTROL.encode(), b"\x00", b"NaN",
         b"latent=3&latent=x", b"%F0%9F%98%80", b"+", b";", b"page=", b"page=99999999999", b"show=", b"sort=maximum", b"//", b"/api")  # fmt: skip


def _requests(_: Path) -> list[Case]:
    return [Case({"target": target, "method": b"GET", "host": b"127.0.0.1:1"}, "target") for target in REQUESTS]


def _changed_request(files: Files, rng: random.Random) -> tuple[Files, str]:
    made = dict(files)
    if rng.random() < 0.05:
        made["method"] = rng.choice((b"POST", b"HEAD", b"OPTIONS", b"", b"get", b"\xff"))
    if rng.random() < 0.05:
        made["host"] = rng.choice((b"", b"evil", b"127.0.0.1", b"\xff\x00", b"127.0.0.1:1 ", b"LOCALHOST:1"))
    target = made["target"]
    if rng.random() < 0.3:  # a parameter that nothing reads
        made["target"] = target + (b"&" if b"?" in target else b"?") + b"z=" + rng.choice(PARTS)
        return made, BYTES
    for _ in range(rng.choice((1, 1, 2, 3))):
        place = rng.randrange(len(target) + 1)
        target = target[:place] + rng.choice(PARTS) + target[place + rng.choice((0, 0, 1, 4)) :]
    made["target"] = changed_bytes(target, rng) if rng.random() < 0.3 else target
    return made, BYTES


@cache
def _application() -> Guard:
    found = {3: {"llm": {"explanation": CONTROL}}}
    return Guard(application(Viewer(Content(info(), None, found), Live(autoencoder, None))), {"127.0.0.1:1"})


def _ask(path: Path, case: Case, kind: str) -> None:
    """One request, as the server hands it on: its parser refuses what is not HTTP, which is tested over a socket."""
    target, method, host = (
        (path.parent / name).read_bytes() if (path.parent / name).exists() else b"" for name in ("target", "method", "host")
    )
    from urllib.parse import unquote

    raw, _, query = target.partition(b"?")
    scope: dict[str, Any] = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method.decode("latin-1"), "scheme": "http",
        "path": unquote(raw.decode("latin-1")), "raw_path": raw, "query_string": query, "root_path": "",
        "headers": [(b"host", host)], "client": ("127.0.0.1", 9), "server": ("127.0.0.1", 1),
    }  # fmt: skip
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    with ThreadPoolExecutor(1) as alone:  # a test of the browser may leave a loop running in this thread
        alone.submit(asyncio.run, _application()(scope, receive, send)).result()
    start, body = sent[0], b"".join(each.get("body", b"") for each in sent[1:])
    headers = dict(start["headers"])
    assert start["status"] < 500, f"{start['status']} for {target[:100]!r}: {body[:200]!r}"
    assert headers[b"x-content-type-options"] == b"nosniff" and b"x-evil" not in headers
    if headers.get(b"content-type", b"").startswith(b"application/json"):
        data = json.loads(body)
        if start["status"] == 400 and kind:
            from saebench.errors import SaebenchError

            raise SaebenchError(data["error"])
    elif start["status"] != 200:
        assert body.decode().isprintable()
        _refused(start["status"], body)


def _refused(status: int, body: bytes) -> None:
    from saebench.errors import SaebenchError

    if body:
        raise SaebenchError(body.decode())


READERS = [
    Reader("explanations", _explanations, _read_explanations),
    Reader("examples", _examples, _read_examples),
    Reader("meta_latents", _meta, _read_meta),
    Reader("viewer_requests", _requests, _ask, _changed_request),
]
