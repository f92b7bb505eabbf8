"""The viewer at 131,072 latents: how long until a page shows something, in a real browser."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch

from saebench.explaining.examples.collecting import Collected, ExampleCollector, ExampleSettings, write_examples
from saebench.explaining.examples.ranked import Activations
from saebench.lm import LanguageModel
from saebench.sae import CheckpointInfo, SparseAutoencoder, TopK
from saebench.text.corpus import make_corpus
from tests.benchmarks.memory import FIXTURES, _write_random
from tests.benchmarks.table import Row

TITLE = "Viewer (131,072 latents, d = 768)"
LATENTS, WIDTH, CONTEXT, ROWS = 131_072, 768, 128, 512
REPEATS = 5


def run() -> list[Row]:
    try:
        with tempfile.TemporaryDirectory(dir=os.environ.get("SAEBENCH_SCRATCH")) as scratch:
            # In a process of its own, which owes no memory to the making of the files.
            subprocess.run([sys.executable, "-m", __name__, "make", scratch], check=True)
            command = [sys.executable, "-m", __name__, "measure", scratch]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return [Row(**row) for row in json.loads(printed.splitlines()[-1])]
    except subprocess.CalledProcessError as error:
        return [Row("first paint", "not measured", "1 s", (error.stderr or str(error)).strip().splitlines()[-1])]


def make(folder: Path) -> None:
    """A random dictionary and the examples of random codes; the weights are those of no training."""
    (folder / "sae").mkdir()
    _write_random(folder / "sae" / "sae.safetensors", LATENTS, WIDTH)
    kind = {"kind": "TopK", "name": "topk", "k": 32}
    fields = {"architecture": "topk", "d_in": WIDTH, "d_out": WIDTH, "n_latents": LATENTS, "activation": kind}
    config = {"format_version": 1, "sae": fields, "scaling": {}, "training": {}}
    (folder / "sae" / "sae.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(0)
    model = LanguageModel.load(str(FIXTURES / "saelens_evals" / "model"))
    tokens = torch.randint(3, 200, (ROWS, CONTEXT), generator=generator)
    collector = ExampleCollector(LATENTS, CONTEXT, ExampleSettings.defined())
    for first in range(0, ROWS, 64):
        latents = (torch.rand(64 * CONTEXT * 32, generator=generator).square() * LATENTS).long()
        places = (torch.arange(64 * CONTEXT) + first * CONTEXT).repeat_interleave(32)
        values = torch.rand(latents.numel(), generator=generator) + 0.01
        collector.update(Activations.sort(latents, places, values))
    info = CheckpointInfo("random", "saebench", "topk", 32, 32, LATENTS, {})
    stand_in = SparseAutoencoder(
        torch.zeros(32, LATENTS), torch.zeros(LATENTS, 32), torch.zeros(LATENTS), torch.zeros(32), TopK(32), info
    )
    cut = model.cut("blocks.1.hook_resid_post")
    corpus = make_corpus(tokens, model.tokenizer, name="random tokens", exclude=False)
    write_examples(Collected(collector, stand_in, cut, corpus), folder / "examples")
    manifest = json.loads((folder / "examples" / "manifest.json").read_text())
    manifest["sae"]["weights_sha256"] = None  # the stand-in's; the dictionary's own is unknown here
    (folder / "examples" / "manifest.json").write_text(json.dumps(manifest))


def measure(folder: Path) -> list[dict[str, str]]:
    from saebench.viewer.opening import open_viewer
    from saebench.viewer.server import serve
    from tests.conftest import open_browser

    start = time.perf_counter()
    content, live = open_viewer(str(folder / "sae"), examples=folder / "examples", live=False)
    rows = []
    with open_browser() as browser, serve(content, live) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        first = [paint(browser, server.address, "table.list th a") for _ in range(REPEATS)]
        random = torch.randint(0, LATENTS, (REPEATS,), generator=torch.Generator().manual_seed(1)).tolist()
        latent = [paint(browser, f"{server.address}#/latent/{number}", ".example, .first p") for number in random]
        live.weights()
        ready = time.perf_counter() - start
        near = [paint(browser, f"{server.address}#/latent/{number}", "aside table") for number in random]
        server.shutdown()
    worst = "slowest of five"
    rows.append(_row("first contentful paint, list", max(each for each, _ in first), worst + ", weights still being read"))
    rows.append(_row("list filled in", max(each for _, each in first), worst))
    rows.append(_row("a random latent's examples", max(each for _, each in latent), worst))
    rows.append(
        _row(
            "with its neighbours, once weights are read", max(each for _, each in near), f"{worst}; read after {ready:.0f} s"
        )
    )
    return rows


def paint(browser: Any, address: str, selector: str) -> tuple[float, float]:
    """``(first contentful paint, selector there)`` in seconds since the page was asked for."""
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector(selector)
        there = page.evaluate("performance.now()") / 1000
        painted = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? performance.now()")
        return painted / 1000, there


def _row(what: str, seconds: float, note: str) -> dict[str, str]:
    return {"what": what, "measured": f"{seconds:.2f} s", "bar": "1 s", "note": note}


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]))
    else:
        print(json.dumps(measure(Path(sys.argv[2]))))
