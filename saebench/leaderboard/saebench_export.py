"""Results in the JSON shapes of SAEBench 0.6, which its plots and its site read; ``imported`` is the inverse.

Values are SAEBench's by definition, where the two differ; corrected values and standard errors are in
``eval_result_unstructured``, a part that SAEBench leaves to each evaluation.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from saebench.errors import SaebenchError
from saebench.files import check_writable, write_text
from saebench.results import EvaluatorResult, Result, canonical_hash
from saebench.version import __version__

NOT_MEASURED = -1.0
"""What SAEBench's core evaluation writes for a number that it did not measure."""


class Shape(NamedTuple):
    """How an evaluator's metrics are arranged: the evaluation's name, and by group its fields, ``{field: metric}``.

    ``required``: groups without these metrics are no result. ``absent``: what stands for a metric that is undefined.
    """

    kind: str
    groups: Mapping[str, Mapping[str, str]]
    required: tuple[str, ...]
    absent: float | None = None

    def fields(self) -> dict[str, str]:
        """SAEBench's name of each metric."""
        return {metric: field for group in self.groups.values() for field, metric in group.items()}


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


def _thresholds(suite: str, parts: tuple[str, ...]) -> dict[str, str]:
    """Names by number of ablated latents: it stands last in SCR's, before the part in TPP's."""
    counts = (2, 5, 10, 20, 50, 100, 500)
    if suite == "scr":
        return _same(*(f"scr_{part}_threshold_{count}" for part in parts for count in counts))
    return _same(*(f"tpp_threshold_{count}_{part}" for part in parts for count in counts))


CORE = {
    "model_behavior_preservation": _same("kl_div_score", "kl_div_with_ablation", "kl_div_with_sae"),
    "model_performance_preservation": _same(
        "ce_loss_score", "ce_loss_with_ablation", "ce_loss_with_sae", "ce_loss_without_sae"
    ),
    "reconstruction_quality": {
        "explained_variance": "explained_variance_saebench", "explained_variance_legacy": "", "mse": "mse_saebench",
        "cossim": "cossim",
    },
    "shrinkage": _same("l2_norm_in", "l2_norm_out", "l2_ratio", "relative_reconstruction_bias"),
    "sparsity": _same("l0", "l1"),
    "misc_metrics": _same(
        "freq_over_1_percent", "freq_over_10_percent", "normalized_freq_over_1_percent", "normalized_freq_over_10_percent",
        "average_max_encoder_cosine_sim", "average_max_decoder_cosine_sim", "frac_alive",
    ),
}  # fmt: skip
PROBED = ("test", *(f"top_{k}_test" for k in (1, 2, 5, 20, 50)))
SHAPES = {
    "core": Shape("core", CORE, ("kl_div_with_sae", "ce_loss_with_sae"), NOT_MEASURED),
    "sparse_probing": Shape(
        "sparse_probing", {side: _same(*(f"{side}_{each}_accuracy" for each in PROBED)) for side in ("llm", "sae")},
        ("sae_test_accuracy",),
    ),
    "absorption": Shape(
        "absorption_first_letter",
        {"mean": {f"mean_{field}": name for field, name in (("absorption_fraction_score", "absorption_fraction"),
                  ("full_absorption_score", "full_absorption"), ("num_split_features", "main_latents"))}},
        ("absorption_fraction", "full_absorption"),
    ),
    "autointerp": Shape("autointerp", {"autointerp": _same("autointerp_score")}, ("autointerp_score",)),
    "ravel": Shape(
        "ravel",
        {"ravel": {"disentanglement_score": "disentanglement", "cause_score": "cause", "isolation_score": "isolation"}},
        ("disentanglement",),
    ),
    "unlearning": Shape("unlearning", {"unlearning": _same("unlearning_score")}, ("unlearning_score",)),
    "scr": Shape("scr", {"scr_metrics": _thresholds("scr", ("dir1", "dir2", "metric"))}, ("scr_metric_threshold_20",)),
    "tpp": Shape("tpp", {"tpp_metrics": _thresholds("tpp", ("total_metric", "intended_diff_only", "unintended_diff_only"))},
                 ("tpp_threshold_20_total_metric",)),
}  # fmt: skip
"""The evaluations of SAEBench that have an evaluator here, by its name."""
DEVIATIONS = {"absorption": "std_dev_{}", "autointerp": "autointerp_std_dev"}
"""Fields of standard deviations over letters and latents, which SAEBench has in place of standard errors."""


class Exported(NamedTuple):
    """What an export wrote: files, and sentences on what could not be exported."""

    files: list[Path]
    left_out: list[str]


def export_saebench(results: Mapping[str, Result], folder: Path) -> Exported:
    """Write each evaluation of each result to ``FOLDER/EVALUATION/NAME_custom_sae_eval_results.json``.

    Args:
        results: by the name that the autoencoder gets.
        folder: to write to.

    Raises:
        SaebenchError: no result has an evaluation of SAEBench, or the folder cannot be written.
    """
    texts: dict[Path, str] = {}
    left_out = []
    for name, result in results.items():
        safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "sae"
        for evaluator, shape in SHAPES.items():
            if evaluator not in result.evaluators:
                continue
            lacking = _lacking(result.evaluators[evaluator], shape)
            if lacking:
                left_out.append(f"{name}: {evaluator} is left out: {lacking}")
                continue
            path = folder / shape.kind / f"{safe}_custom_sae_eval_results.json"
            if path in texts:
                raise SaebenchError(f"Two results would have the file {path}: give results of different names.")
            texts[path] = json.dumps(_content(safe, result, evaluator, shape), indent=2, allow_nan=False) + "\n"
    if not texts:
        why = left_out[0] if left_out else f"they have none of {', '.join(SHAPES)}"
        raise SaebenchError(f"There is nothing to export in SAEBench's format: {why}.")
    for path in texts:
        check_writable(path)
    for path, text in texts.items():
        write_text(path, text)
    return Exported(list(texts), left_out)


def _lacking(found: EvaluatorResult, shape: Shape) -> str:
    """Why an evaluation has no result; empty where it has one."""
    for name in shape.required:
        metric = found.metrics.get(name)
        if metric is None or metric.value is None:
            return (
                f"{name} is undefined, because {metric.reason}"
                if metric is not None and metric.reason
                else f"it has no {name}"
            )
    return ""


def _content(name: str, result: Result, evaluator: str, shape: Shape) -> dict[str, Any]:
    found = result.evaluators[evaluator]
    groups: dict[str, dict[str, float | int | None]] = {
        group: {field: _value(found, metric, shape.absent) for field, metric in fields.items()}
        for group, fields in shape.groups.items()
    }
    if evaluator == "core":
        tokens = result.corpus.tokens_counted
        groups["token_stats"] = dict.fromkeys(
            ("total_tokens_eval_reconstruction", "total_tokens_eval_sparsity_variance"), tokens
        )
    if evaluator in DEVIATIONS:
        (group,) = shape.groups
        for field, metric in list(shape.groups[group].items()):
            groups[group][DEVIATIONS[evaluator].format(field.removeprefix("mean_"))] = _deviation(found, metric)
    digest = canonical_hash(json.loads(result.model_dump_json()))
    return {
        "eval_type_id": shape.kind,
        "eval_config": _config(result, found),
        "eval_id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{digest} {evaluator}")),
        "datetime_epoch_millis": int(datetime.fromisoformat(result.created).timestamp() * 1000),
        "eval_result_metrics": groups,
        "eval_result_details": [],
        "sae_bench_commit_hash": f"saebench {__version__}",
        "sae_lens_id": "custom_sae",
        "sae_lens_release_id": name,
        "sae_lens_version": "",
        "sae_cfg_dict": _sae(result),
        "eval_result_unstructured": {
            "written_by": f"saebench {__version__}",
            "result_sha256": digest,
            "metrics": {key: {"value": each.value, "standard_error": each.standard_error, "n": each.n, "unit": each.unit}
                        for key, each in found.metrics.items()},
        },
    }  # fmt: skip


def _value(found: EvaluatorResult, name: str, absent: float | None) -> float | None:
    metric = found.metrics.get(name)
    return absent if metric is None or metric.value is None else metric.value


def _deviation(found: EvaluatorResult, name: str) -> float | None:
    metric = found.metrics.get(name)
    if metric is None or metric.standard_error is None:
        return None
    return float(metric.standard_error * metric.n**0.5)


def _config(result: Result, found: EvaluatorResult) -> dict[str, Any]:
    return {
        "random_seed": result.seed,
        "model_name": result.model.name,
        "llm_dtype": result.model.dtype,
        "dataset": result.corpus.name,
        "context_size": result.corpus.context,
        "settings": found.settings,
    }


def _sae(result: Result) -> dict[str, Any]:
    sae = result.sae
    layer = re.search(r"blocks\.(\d+)\.", sae.hook_in)
    return {
        "architecture": sae.architecture,
        "d_in": sae.d_in,
        "d_sae": sae.n_latents,
        "hook_name": sae.hook_in,
        "hook_layer": int(layer[1]) if layer else None,
        "model_name": result.model.name,
        "activation": sae.activation,
        "weights_sha256": sae.weights_sha256,
    }
