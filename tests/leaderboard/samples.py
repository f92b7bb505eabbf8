"""Leaderboards made by formula, and a SAEBench result of the real ones' shape."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

from saebench.evaluators.base import Evaluator, Measured
from saebench.evaluators.core import COLUMNS, LOSSES, Core
from saebench.evaluators.downstream import Downstream
from saebench.evaluators.reconstruction import Reconstruction
from saebench.leaderboard.benchmark import benchmark_of, to_toml
from saebench.leaderboard.submission import Submission, make_submission, to_json
from saebench.results import EvaluatorResult, Result
from saebench.results.statistics import mean_by_groups
from tests.sample_results import sample_result

FOLDER = "smollm2/blocks.15.hook_resid_pre"
CONTROLS = ("random",)


ROWS, GROUP = 16, 16
PER_ROW = 127 * GROUP
"""Groups of rows of the text of ``sample_result``, and the tokens in each: together those that it says were counted."""


def entry_result(index: int = 0, k: int = 32, architecture: str = "topk", **changes: Any) -> Result:
    """A result whose weights, L0 and error depend on ``index`` and ``k``; it has its control."""
    base = sample_result(f"made/{architecture}-{k}-{index}")
    sae = base.sae.model_copy(
        update={
            "weights_sha256": f"{index:064x}",
            "architecture": architecture,
            "activation": {"name": architecture, "k": k},
        }
    )
    given = Measured.of(base)
    made = {
        "sae": sae,
        "evaluators": measured(given, 16 / k, k),
        "controls": {"random": measured(given, 5.0, k)},
        "definitions": {},
        **changes,
    }
    return base.model_copy(update=made)


def stated_result(index: int = 0, k: int = 32, architecture: str = "topk", **changes: Any) -> Result:
    """The same without samples, so that comparisons rest on the stated errors alone."""
    base = sample_result(scale=16 / k)
    reconstruction = base.evaluators["reconstruction"]
    l0 = {"l0": reconstruction.metrics["l0"].model_copy(update={"value": float(k)})}
    others = {name: each for name, each in reconstruction.metrics.items() if name != "l0"}
    evaluators = {**base.evaluators, "reconstruction": reconstruction.model_copy(update={"metrics": {**others, **l0}})}
    controls = {"random": sample_result(scale=5.0).evaluators}
    return entry_result(index, k, architecture, **{"evaluators": evaluators, "controls": controls, **changes})


def measured(given: Measured, scale: float, k: int) -> dict[str, EvaluatorResult]:
    """Reconstruction and downstream with samples by formula and the metrics that follow from them."""
    share = min(0.1834 * scale, 1.0)
    return {
        "reconstruction": with_metrics(Reconstruction, _reconstruction(share, k), given),
        "downstream": with_metrics(Downstream, {"by_row": _downstream(scale)}, given),
    }


def with_metrics(evaluator: type[Evaluator], details: dict[str, Any], given: Measured) -> EvaluatorResult:
    """The result that an evaluator makes of its details."""
    empty = EvaluatorResult(name=evaluator.name, version=1, metrics={}, details=details, duration_seconds=1.0)
    metrics = {metric.name: metric for metric in evaluator.recomputed(empty, given)}
    return empty.model_copy(update={"metrics": metrics})


def _wave(size: float, phase: float, part: float = 0.1) -> list[float]:
    """A positive value for each row."""
    return [float(f"{size * (1 + part * math.sin(row * phase)):.7g}") for row in range(ROWS)]


def _reconstruction(share: float, k: int) -> dict[str, Any]:
    tokens = [float(PER_ROW)] * ROWS
    variance = _wave(90.0 * PER_ROW, 1.3)
    error = [float(f"{share * value * (1 + 0.05 * math.cos(row)):.7g}") for row, value in enumerate(variance)]
    like = sample_result().evaluators["reconstruction"].details
    shape = like["density_histogram"]["counts"]
    counts = [count * (9216 - 108) // sum(shape) for count in shape]
    counts[8] += 9216 - 108 - sum(counts)
    density = {
        **like["density_histogram"],
        "counts": counts,
        "above_10pct": sum(counts[15:]),
        "above_1pct": sum(counts[11:]),
    }
    similarity = mean_by_groups(torch.linspace(0.1, 0.5, 9216))
    return {
        **like,
        "density_histogram": density,
        "unit_variance": 0.9 * ROWS * PER_ROW,
        "by_row": {
            "variance": variance,
            "rows_per_group": GROUP,
            "tokens": tokens,
            "squared_error": error,
            "unit_error": _wave(share * PER_ROW * 0.9, 0.7),
            "relative_error": _wave(share * PER_ROW, 0.9),
            "cosine": _wave((1 - share / 2) * PER_ROW, 0.4, 0.001 * (share < 0.9)),
            "norm_ratio": _wave((1 - share / 3) * PER_ROW, 0.5),
            "reconstruction_squares": _wave(80.0 * PER_ROW, 1.1),
            "dot": _wave(85.0 * PER_ROW, 1.1),
            "l0": [float(k * PER_ROW)] * ROWS,
            "l1": _wave(3.0 * k * PER_ROW, 0.3),
        },
        "by_latent": {"encoder_decoder_cosine": similarity, "max_decoder_similarity": similarity, "reason": ""},
    }


def _downstream(scale: float) -> dict[str, Any]:
    clean = _wave(2.9143 * PER_ROW, 0.6)
    spliced = [
        float(f"{value + 0.1871 * scale * PER_ROW * (1 + 0.2 * math.sin(row)):.7g}") for row, value in enumerate(clean)
    ]
    return {
        "rows_per_group": GROUP,
        "predictions": [float(PER_ROW)] * ROWS,
        "ce_clean": clean,
        "ce_spliced": spliced,
        "positions": [float(PER_ROW)] * ROWS,
        "kl_divergence": _wave(0.15 * scale * PER_ROW, 0.8),
        "top1_agreement": _wave(max(0.9 - 0.05 * scale, 0.1) * PER_ROW, 0.2),
        "ce_zero_ablated": _wave(10.8312 * PER_ROW, 0.6),
        "ce_mean_ablated": _wave(7.4127 * PER_ROW, 0.6),
    }


def submission(name: str = "entry", result: Result | None = None, **changes: Any) -> Submission:
    """A submission that passes every check."""
    given = {"origin": "https://example.org/sae", "licence": "MIT", "contact": "somebody", **changes}
    return make_submission(result or entry_result(), name, **given)


def with_core(result: Result, **columns: list[float]) -> Result:
    """The same with SAEBench's core evaluation, whose sums follow from those of the other evaluators; no control has it.

    ``columns`` replace sums by row.
    """
    rows = result.evaluators["reconstruction"].details["by_row"] | result.evaluators["downstream"].details["by_row"]
    shared = {name: rows[name] for name in (*COLUMNS, *LOSSES, "variance") if name in rows}
    size = rows["variance"]
    norms = {"squares": size, "norm_in": size, "norm_out": size, "out_squares": size, "ratio": rows["norm_ratio"]}
    ablated = {"ce_ablated": rows["ce_zero_ablated"], "kl_ablated": _wave(9.0 * PER_ROW, 0.4)}
    details = {
        "by_row": {"rows_per_group": GROUP, **shared, **norms, **ablated, **columns},
        "frequency": {"alive": 9000, "activations": 900, "over_1_percent": {"latents": 9, "activations": 90},
                      "over_10_percent": {"latents": 1, "activations": 9}},
        "similarity": {"encoder": None, "decoder": None},
    }  # fmt: skip
    core = with_metrics(Core, details, Measured.of(result))
    return result.model_copy(update={"evaluators": {**result.evaluators, "core": core}})


def write_board(root: Path, submissions: list[Submission], of: Result | None = None) -> Path:
    """A leaderboard of the benchmark of a result, with these submissions; gives its folder."""
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "benchmark.toml").write_text(to_toml(benchmark_of(of or entry_result(), "A test", CONTROLS)))
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
