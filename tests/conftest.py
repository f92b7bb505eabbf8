from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported: tests never wait for a network
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is: models this small only lose to waiting threads

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from saebench.lm import LanguageModel
from saebench.sae import Activation, CheckpointInfo, SparseAutoencoder, TopK
from saebench.text.corpus import TokenCorpus, make_corpus

settings.register_profile("suite", derandomize=True, deadline=None)  # the same examples in every run, on any machine
settings.load_profile("suite")

FIXTURES = Path(__file__).parent / "fixtures"
SHARED = Path(__file__).parents[2] / "shared"
HOOK = "blocks.1.hook_resid_post"
BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("the shared data folder is not beside the repository")
    return folder


@pytest.fixture(scope="session")
def tiny_model() -> LanguageModel:
    """A random Llama of four layers, width 32 and 200 tokens; token 1 is BOS, 2 is EOS."""
    return LanguageModel.load(str(FIXTURES / "saelens_evals" / "model"))


@pytest.fixture(scope="session")
def tiny_corpus(tiny_model: LanguageModel) -> TokenCorpus:
    """24 rows of 16 tokens, each row begun by BOS, with an EOS in the middle of one."""
    rows = torch.randint(3, 200, (24, 16), generator=torch.Generator().manual_seed(1))
    rows[:, 0] = 1
    rows[5, 7] = 2
    return make_corpus(rows, tiny_model.tokenizer, name="random tokens", bos="row")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Three hundred words of the tiny model's vocabulary."""
    numbers = torch.randint(3, 200, (300,), generator=torch.Generator().manual_seed(0)).tolist()
    path = tmp_path / "words.txt"
    path.write_text(" ".join(f"w{number}" for number in numbers))
    return path


@pytest.fixture
def make_sae() -> Callable[..., SparseAutoencoder]:
    def make(
        d: int = 32, n: int = 64, activation: Activation | None = None, seed: int = 0, **changes: object
    ) -> SparseAutoencoder:
        generator = torch.Generator().manual_seed(seed)
        directions = torch.nn.functional.normalize(torch.randn(n, d, generator=generator), dim=1)
        activation = activation or TopK(8)
        info = CheckpointInfo("made in a test", "saebench", activation.name, d, d, n, activation.describe(), hook_in=HOOK)
        parts: dict[str, object] = {
            "W_enc": directions.T.clone(),
            "W_dec": directions,
            "b_enc": torch.zeros(n),
            "b_dec": torch.zeros(d),
            "activation": activation,
            "info": info,
        }
        return SparseAutoencoder(**(parts | changes))  # type: ignore[arg-type]

    return make


@contextmanager
def open_browser() -> Iterator[Any]:
    """Chromium, driven by Playwright; tests skip and say why where there is none."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        pytest.skip("playwright is not installed: run `make browser`")
    found = os.environ.get("SAEBENCH_CHROMIUM") or next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("there is no Chromium: run `make browser`, or name one in SAEBENCH_CHROMIUM")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        try:
            launched = playwright.chromium.launch(executable_path=found, args=arguments)
        except Error as error:
            pytest.skip(f"{found} does not start: {error.message.splitlines()[0]}")
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """One browser for all tests."""
    with open_browser() as launched:
        yield launched
