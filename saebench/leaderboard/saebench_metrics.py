"""Names, units and directions of SAEBench's metrics, from the JSON schemas in its repository (0.6, and earlier versions).

SAEBench groups metrics (``reconstruction_quality``, ``mean``, ``scr_metrics``, ...). A group's name stays in a metric's name
only for the core evaluation; the others have one group each, and its name changed between versions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from saebench.errors import plain
from saebench.results import Metric

Direction = Literal["lower", "higher", "none"]

KINDS = {
    "absorption_first_letter": "absorption",
    "shift": "scr",
    "meta_sae_decoder_variance": "meta_structure",
    "meta_structure_decoder_variance": "meta_structure",
}
"""Names of evaluations that changed between SAEBench's versions, with the name used here."""
GROUPS = {
    "llm", "sae", "mean", "uncategorized", "shift_metrics", "scr_metrics", "tpp_metrics", "ravel", "unlearning",
    "autointerp", "autointerp_metrics", "meta_sae", "meta_structure",
}  # fmt: skip
DETAILS = re.compile(r"absorption_first_letter_.*")
"""Groups of one unit each, of which the means are imported."""
NOT_MEASURED = -1.0
"""The core evaluation writes it for every number that it did not measure, and for NaN."""
DEEPEST_METRIC = 5
LONGEST_NAME = 100

KIND_OF_METRIC = (
    (re.compile(r"(sae|llm)_(top_\d+_)?test_accuracy"), "sparse_probing"),
    (re.compile(r"scr_(dir1|dir2|metric)_threshold_\d+"), "scr"),
    (re.compile(r"tpp_threshold_\d+_.*"), "tpp"),
    (re.compile(r"mean_(full_)?absorption_.*"), "absorption"),
    (re.compile(r"autointerp_score"), "autointerp"),
    (re.compile(r"unlearning_score"), "unlearning"),
    (re.compile(r"disentanglement_score"), "ravel"),
    (re.compile(r"decoder_fraction_variance_explained"), "meta_structure"),
    (re.compile(r"sparsity\.l0"), "core"),
)
"""Which evaluation a metric belongs to, for files that do not say it."""


@dataclass(frozen=True)
class _Known:
    name: re.Pattern[str]
    direction: Direction
    unit: str
    words: str


def _known(name: str, direction: Direction, words: str, unit: str = "1") -> _Known:
    return _Known(re.compile(rf"(?:.*\.)?(?:{name})"), direction, unit, words)


OF_THE_MODEL = "of the language model, without the autoencoder"
KNOWN = (
    _known(r"llm_.*", "none", OF_THE_MODEL),
    _known(r"(ce_loss|kl_div)_with_ablation|loss_zero", "none", f"{OF_THE_MODEL}, with ablated activations", "nats"),
    _known(r"ce_loss_without_sae|loss_original", "none", OF_THE_MODEL, "nats"),
    _known(r"ce_loss_with_sae|loss_reconstructed", "lower", "cross-entropy with reconstructed activations", "nats"),
    _known(r"kl_div_with_sae", "lower", "KL divergence with reconstructed activations", "nats"),
    _known(r"ce_loss_score|kl_div_score|frac_recovered", "higher", "1 for the model itself, 0 for ablated activations"),
    _known(r"explained_variance|frac_variance_explained", "higher", "explained variance"),
    _known(r"explained_variance_legacy", "higher", "explained variance by an earlier formula that SAEBench calls incorrect"),
    _known(r"mse|l2_loss", "lower", "reconstruction error, in squared or plain units of the activations"),
    _known(r"cossim", "higher", "cosine similarity of activations and reconstructions"),
    _known(r"l0", "none", "mean number of active latents per token", "latents"),
    _known(r"total_tokens_.*", "none", "tokens used", "tokens"),
    _known(r"frac_alive", "higher", "share of latents that were active at least once"),
    _known(r"sae_(top_\d+_)?test_(accuracy|auc|f1)", "higher", "probes on latents, test set"),
    _known(r"mean_absorption_(fraction_)?(score|rate)|mean_full_absorption_score", "lower", "mean over first letters"),
    _known(r"std_dev_.*|autointerp_std_dev", "none", "standard deviation over letters or latents, not a standard error"),
    _known(r"autointerp_score", "higher", "accuracy of a language model's explanations of latents"),
    _known(r"scr_metric_threshold_\d+", "higher", "spurious correlation removal with so many latents ablated"),
    _known(r"scr_dir[12]_threshold_\d+", "none", "spurious correlation removal in one of two directions"),
    _known(r"tpp_threshold_\d+_total_metric", "higher", "targeted probe perturbation with so many latents ablated"),
    _known(r"tpp_threshold_\d+_(un)?intended_diff_only", "none", "fall of the probes' accuracy, a part of the total"),
    _known(r"disentanglement_score|cause_score|isolation_score", "higher", "RAVEL, of attributes of entities"),
    _known(r"unlearning_score", "higher", "1 minus the accuracy on WMDP-bio after unlearning"),
    _known(r"description_length", "lower", "minimum description length", "1"),
    _known(r".*_seconds", "none", "time", "s"),
)  # fmt: skip


def kind_of(name: str) -> str:
    """The name used here for an evaluation, from SAEBench's name."""
    made = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:60].strip("_")
    return KINDS.get(made, made)


def kind_from_metrics(names: list[str]) -> str | None:
    """The evaluation that has these metrics, if one of them tells it."""
    return next((kind for name in names for pattern, kind in KIND_OF_METRIC if pattern.fullmatch(name)), None)


def numbers_in(metrics: dict[str, Any], kind: str | None) -> tuple[dict[str, float], list[str]]:
    """``(numbers by their names, problems)``.

    Null and the core evaluation's -1 mean that nothing was measured: they are left out without a problem.
    """
    found: dict[str, float] = {}
    problems = []
    for path, value in _leaves(metrics, (), 0):
        words = ".".join(path)
        if value is None or (kind in (None, "core") and value == NOT_MEASURED):
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            problems.append(f"{plain(words)[:LONGEST_NAME]} is {_shown(value)}, not a number")
            continue
        short = ".".join(part for part in path if part not in GROUPS) or words
        name = plain(words if plain(short) in found else short)
        if not name.strip() or len(name) > LONGEST_NAME or name in found:
            problems.append(f"{name[:LONGEST_NAME]!r} cannot be the name of a metric")
            continue
        found[name] = float(value)
    return found, problems


def _leaves(data: dict[str, Any], path: tuple[str, ...], depth: int) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in data.items():
        if isinstance(value, dict) and depth < DEEPEST_METRIC:
            if not DETAILS.fullmatch(name):
                yield from _leaves(value, (*path, name), depth + 1)
        else:
            yield (*path, name), value


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "an object nested too deeply"
    if isinstance(value, list):
        return "a list"
    return plain(repr(value))[:40]


def metric_of(name: str, value: float) -> Metric:
    """A metric with its unit and direction; one that is not known here has direction "none"."""
    known = next((each for each in KNOWN if each.name.fullmatch(name)), None)
    return Metric(
        name=name,
        value=value,
        unit=known.unit if known else "1",
        direction=known.direction if known else "none",
        n=0,
        n_unit="examples, unknown",
        description=f"Imported from SAEBench, as it reports it{f': {known.words}' if known else ''}",
    )
