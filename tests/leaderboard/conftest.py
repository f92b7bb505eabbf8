"""One result of all evaluators and controls, on the tiny model."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path

import pytest
import torch

import saebench
from saebench.checkpoints import save_native
from saebench.results import Result
from saebench.sae import CheckpointInfo, SparseAutoencoder, TopK
from tests.conftest import FIXTURES, HOOK

EVALUATORS = ("reconstruction", "downstream", "shrinkage", "progressive", "ablation", "dictionary", "explainability")
OPTIONS = {
    "ablation": {"tokens": 6, "horizon": 4, "latents_per_token": 4},
    "shrinkage": {"downstream_rows": 4},
    "progressive": {"downstream_rows": 4, "calibration_rows": 4},
    "explainability": {"build": 2, "held_out": 2, "least": 4, "window": 8, "latents": 6, "strata": 2, "loss_rows": 4,
                       "baseline_latents": 4, "bootstrap": 50, "baselines": "unigram,random", "padding": "w3"},
}  # fmt: skip


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a text and a checkpoint ``sae``, so that a result's names can be repeated in it."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "saelens_evals").mkdir()
    (folder / "saelens_evals/model").symlink_to(FIXTURES / "saelens_evals" / "model")
    numbers = torch.randint(3, 200, (900,), generator=torch.Generator().manual_seed(0)).tolist()
    (folder / "words.txt").write_text(" ".join(f"w{number}" for number in numbers))
    directions = torch.nn.functional.normalize(torch.randn(64, 32, generator=torch.Generator().manual_seed(0)), dim=1)
    info = CheckpointInfo("sae", "saebench", "topk", 32, 32, 64, TopK(8).describe(), hook_in=HOOK)
    zeros = {"b_enc": torch.zeros(64), "b_dec": torch.zeros(32)}
    sae = SparseAutoencoder(W_enc=directions.T.clone(), W_dec=directions, activation=TopK(8), info=info, **zeros)
    save_native(sae, folder / "sae")
    return folder


@pytest.fixture(scope="session")
def every_evaluator(workplace: Path) -> Result:
    """A complete result of all evaluators that need no data set, with all controls."""
    with chdir(workplace):
        (card,) = saebench.evaluate(
            ["sae"], model="saelens_evals/model", hook=HOOK, corpus="words.txt", tokens=800, context=20, progress=False,
            evaluators=EVALUATORS, options=OPTIONS, controls=("random", "pca", "reinitialised"),
        )  # fmt: skip
    return card.result
