"""A plausible result, made by formula: what tests of result files and reports start from."""

from __future__ import annotations

import math
from typing import Any

from saebench.results import CorpusRecord, Environment, EvaluatorResult, Metric, ModelRecord, Result, SaeRecord

TOKENS = 32_512


def metric(name: str, value: float | None, error: float | None = None, unit: str = "1", **fields: Any) -> Metric:
    """A metric over all tokens, unless ``fields`` say otherwise."""
    given = {"direction": "none", "n": TOKENS, **fields}
    return Metric(name=name, value=value, standard_error=error, unit=unit, **given)


def evaluator(
    name: str, metrics: list[Metric], details: dict[str, Any] | None = None, seconds: float = 1.0
) -> EvaluatorResult:
    """An evaluator's result."""
    by_name = {each.name: each for each in metrics}
    return EvaluatorResult(name=name, version=1, metrics=by_name, details=details or {}, duration_seconds=seconds)


def reconstruction(scale: float = 1.0) -> EvaluatorResult:
    """Reconstruction metrics with their curves; errors grow with ``scale``."""
    error = min(0.1834 * scale, 1.0)
    shares = {"unit": "share of latents", "direction": "lower"}
    metrics = [
        metric("normalised_mse", error, 0.0021, direction="lower",
               description="Squared error over that of predicting the mean"),
        metric("mse", 0.71382 * scale, 0.0083, "activation²", direction="lower", description="Squared error per element"),
        metric("explained_variance", 1 - error, 0.0021, direction="higher", description="1 - normalised_mse"),
        metric("cosine_similarity", 1 - error / 2, 0.00094, direction="higher",
               description="Cosine of target and reconstruction"),
        metric("l0", 32.0, 0.0, "latents", description="Active latents per token"),
        metric("dead_latents", 0.01171875, description=f"Latents never active on these {TOKENS:,} tokens", **shares),
        metric("dense_latents_10pct", 0.0029, description="Latents active on more than 10 % of tokens", **shares),
        metric("max_decoder_similarity", 0.3127, 0.0011, "cosine", n=9216, n_unit="latents",
               description="Mean over latents of the largest decoder cosine with another latent"),
    ]  # fmt: skip
    edges = [round(-4.75 + 0.25 * step, 4) for step in range(20)]
    counts = [round(1900 * math.exp(-((edge + 2.3 + 0.3 * scale) ** 2) / 0.7)) for edge in edges[:-1]]
    positions = list(range(1, 128))
    curve = [error * (0.8 + 0.35 / math.sqrt(position)) + 0.004 * math.sin(position * 1.7) for position in positions]
    details = {
        "density_histogram": {"log10_edges": edges, "counts": counts, "never_active": 108},
        "normalised_mse_by_position": {"position": positions, "value": curve, "tokens": [256.0] * len(positions)},
    }
    return evaluator("reconstruction", metrics, details, 41.83)


def downstream(scale: float = 1.0) -> EvaluatorResult:
    """Losses of the language model; the spliced model's grows with ``scale``."""
    spliced = 2.9143 + 0.1871 * scale
    recovered = (10.8312 - spliced) / (10.8312 - 2.9143)
    metrics = [
        metric("ce_clean", 2.9143, 0.0312, "nats", description="Cross-entropy of the unaltered model"),
        metric("ce_spliced", spliced, 0.0309, "nats", direction="lower",
               description="Cross-entropy with the reconstruction spliced in"),
        metric("ce_zero_ablated", 10.8312, 0.018, "nats", description="Cross-entropy with activations set to 0"),
        metric("ce_mean_ablated", 7.4127, 0.021, "nats", description="Cross-entropy with activations set to their mean"),
        metric("ce_difference", spliced - 2.9143, 0.0041, "nats", direction="lower",
               description="Spliced minus clean cross-entropy"),
        metric("loss_recovered", recovered, 0.00052, direction="higher",
               description="(CE zero-ablated - CE spliced) / (CE zero-ablated - CE clean)"),
        metric("top1_agreement", 0.8127, 0.0026, direction="higher", interval=(0.8076, 0.8178),
               description="Share of positions where both models' most likely token is the same"),
        metric("relative_compute", None, unit="share of compute", direction="higher",
               reason="no scaling law for this model: give one with --scaling-law",
               description="Share of pretraining compute a model with the spliced model's loss would have needed"),
    ]  # fmt: skip
    return evaluator("downstream", metrics, seconds=212.4)


def sample_result(origin: str = "reference/topk-k32", scale: float = 1.0, controls: bool = False, **changes: Any) -> Result:
    """A complete result; ``changes`` replace its sections."""
    untrained = {"reconstruction": reconstruction(5.2), "downstream": downstream(20.3)}
    given: dict[str, Any] = {
        "created": "2026-11-21T05:00:00+00:00",
        "complete": True,
        "sae": SaeRecord(
            origin=origin, format="saebench", architecture="topk", weights_sha256="9f" * 32, d_in=576, d_out=576,
            n_latents=9216, activation={"name": "topk", "k": 32}, scaling="layer_norm", hook_in="blocks.15.hook_resid_pre",
            hook_out="blocks.15.hook_resid_pre", training={"tokens": 4_000_000, "learning_rate": 0.0003},
        ),
        "model": ModelRecord(
            name="smollm2", revision="0.1.2", weights_sha256="3c" * 32, dtype="float32", n_parameters=134_515_008
        ),
        "corpus": CorpusRecord(
            name="python-docs", revision="3.11.2", sha256="b7" * 32, rows=256, context=128, tokens=32_768,
            tokens_counted=TOKENS, tokens_requested=32_768, bos="row", excluded="special tokens and the first position",
            documents=91,
        ),
        "seed": 0,
        "settings": {"options": {}},
        "definitions": {"tasks/sciq.toml": "5d" * 32},
        "evaluators": {"reconstruction": reconstruction(scale), "downstream": downstream(scale)},
        "controls": {"random dictionary": untrained} if controls else {},
        "stages": {"layers below the hook": 61.2, "layers above, spliced": 74.9, "losses": 52.0},
        "environment": Environment(
            saebench="0.1.0", commit=None, python="3.11.2", platform="Linux x86_64", device="cpu", threads=2,
            libraries={"torch": "2.13.0"},
        ),
    }  # fmt: skip
    return Result(**{**given, **changes})
