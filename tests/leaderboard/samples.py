"""Leaderboards made by formula, and a SAEBench result of the real ones' shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from saebench.leaderboard.benchmark import benchmark_of, to_toml
from saebench.leaderboard.submission import Submission, make_submission, to_json
from saebench.results import EvaluatorResult, Result
from tests.sample_results import evaluator, metric, sample_result

FOLDER = "smollm2/blocks.15.hook_resid_pre"
CONTROLS = ("random",)


def entry_result(index: int = 0, k: int = 32, architecture: str = "topk", **changes: Any) -> Result:
    """A result whose weights, L0 and error depend on ``index`` and ``k``; it has its control."""
    base = sample_result(f"made/{architecture}-{k}-{index}", scale=16 / k)
    sae = base.sae.model_copy(
        update={
            "weights_sha256": f"{index:064x}",
            "architecture": architecture,
            "activation": {"name": architecture, "k": k},
        }
    )
    evaluators = {**base.evaluators, "reconstruction": with_l0(base.evaluators["reconstruction"], float(k))}
    control = sample_result(scale=5.0).evaluators
    made = {"sae": sae, "evaluators": evaluators, "controls": {"random": control}, "definitions": {}, **changes}
    return base.model_copy(update=made)


def with_l0(found: EvaluatorResult, l0: float) -> EvaluatorResult:
    """The same evaluator with another L0, and a further metric of two decimals."""
    metrics = [each for name, each in found.metrics.items() if name != "l0"]
    return evaluator("reconstruction", [*metrics, metric("l0", l0, 0.0, "latents")], found.details, 1.0)


def submission(name: str = "entry", result: Result | None = None, **changes: Any) -> Submission:
    """A submission that passes every check."""
    given = {"origin": "https://example.org/sae", "licence": "MIT", "contact": "somebody", **changes}
    return make_submission(result or entry_result(), name, **given)


def write_board(root: Path, submissions: list[Submission]) -> Path:
    """A leaderboard with these submissions; gives its folder."""
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "benchmark.toml").write_text(to_toml(benchmark_of(entry_result(), "A test", CONTROLS)))
    for each in submissions:
        (folder / f"{each.name}.json").write_text(to_json(each))
    return folder


def saebench_file(path: Path, l0: int = 22, accuracy: float = 0.64, **changes: Any) -> Path:
    """A result file as SAEBench writes it for sparse probing."""
    data = {
        "eval_type_id": "sparse_probing",
        "eval_config": {"random_seed": 42, "dataset_names": ["a/b"], "model_name": "tiny-2b", "k_values": [1, 2]},
        "eval_id": "0",
        "datetime_epoch_millis": 0,
        "eval_result_metrics": {
            "llm": {"llm_test_accuracy": 0.95, "llm_top_1_test_accuracy": 0.67, "llm_top_50_test_accuracy": None},
            "sae": {"sae_test_accuracy": 0.94, "sae_top_1_test_accuracy": accuracy, "sae_top_50_test_accuracy": None},
        },
        "eval_result_details": [],
        "sae_bench_commit_hash": "0123abc",
        "sae_lens_id": f"layer_12/width_16k/average_l0_{l0}",
        "sae_lens_release_id": "some-scope-2b",
        "sae_lens_version": "6.0.0",
        "sae_cfg_dict": {
            "d_in": 2304, "d_sae": 16384, "architecture": "jumprelu",
            "metadata": {"model_name": "tiny-2b", "hook_name": "blocks.12.hook_resid_post"},
        },
        "eval_result_unstructured": {},
    }  # fmt: skip
    path.write_text(json.dumps({**data, **changes}))
    return path
