"""Results of SAEBench (Karvonen et al.) as rows of the same tables, with everything that cannot be verified marked as such.

An ``*_eval_results.json`` holds the numbers of one evaluation of one autoencoder, without the hash of its weights or of its
text, and without errors. Several files of one autoencoder become one entry.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from saebench.errors import plain
from saebench.leaderboard.benchmark import Sha256
from saebench.leaderboard.files import BadFile, Strict, in_words, is_name, read_bytes, read_json
from saebench.leaderboard.submission import Readable
from saebench.results import EvaluatorResult, JsonObject, Metric

UNVOUCHED = {
    "weights": "the file holds no hash of the autoencoder's weights",
    "text": "the file holds no hash of the text or of the rows that were drawn",
    "errors": "the file holds no standard errors",
}
CLAIMED_L0 = "taken from the autoencoder's name, which says the average L0 that its authors measured"
LARGEST_RESULT = 64 * 2**20
"""SAEBench's files for information theory and automatic interpretation have several MB."""
LOWER = re.compile(r"(^|[._])(kl_div|ce_loss_with_sae|mse|frac_dead|absorption|loss)")
HIGHER = re.compile(r"accuracy|explained_variance|cossim|ce_loss_score|kl_div_score|(^|[._])(auc|f1|score)|(scr|tpp)_metric")
NOT_THE_SAES = re.compile(r"(^|\.)llm_|with_ablation|without_sae|ce_loss_without")


class ImportedSae(Strict):
    """The autoencoder, as the file names it."""

    origin: Readable
    architecture: Readable
    d_in: int | None = Field(default=None, gt=0)
    n_latents: int = Field(gt=0)
    hook: Readable


class Imported(Strict):
    """An entry that another suite measured.

    Attributes:
        files: SHA-256 of its source files, by their names.
        unvouched: the parts of it that cannot be verified, and why.
        evaluators: the numbers; none has a standard error.
    """

    import_version: Literal[1]
    name: Annotated[str, AfterValidator(lambda text: _named(text))]
    suite: Literal["SAEBench"]
    suite_commit: str | None = Field(default=None, max_length=64)
    model: Readable
    sae: ImportedSae
    files: dict[str, Sha256]
    unvouched: dict[str, str]
    settings: JsonObject
    evaluators: dict[str, EvaluatorResult]


def _named(text: str) -> str:
    if not is_name(text):
        raise ValueError("is not a name of lower-case letters and digits with single '.', '-' or '_' between them")
    return text


def read_imported(path: Path) -> Imported:
    """An entry's file.

    Raises:
        BadFile: it is not an imported entry.
    """
    text, _ = read_json(path)
    try:
        found = Imported.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise BadFile(f"it does not follow the schema: {in_words(error)[0]}") from error
    if found.name != path.stem:
        raise BadFile(f"its name is {found.name}: its file must be {found.name}.json")
    return found


def import_saebench(paths: Sequence[Path]) -> list[Imported]:
    """Entries from SAEBench's files; files of one autoencoder are merged.

    Raises:
        BadFile: a file is not one of SAEBench's; the message names it.
    """
    found: dict[tuple[str, str], Imported] = {}
    for path in paths:
        try:
            entry = _entry(path)
        except BadFile as error:
            raise BadFile(f"{path.name}: {error}") from error
        key = (entry.model, entry.name)
        found[key] = _merged(found[key], entry) if key in found else entry
    return list(found.values())


def _merged(one: Imported, other: Imported) -> Imported:
    twice = set(one.evaluators) & set(other.evaluators) - {"claimed"}
    if twice:
        raise BadFile(f"{next(iter(other.files))}: {one.sae.origin} already has results of {', '.join(sorted(twice))}")
    return one.model_copy(
        update={
            "files": one.files | other.files,
            "unvouched": one.unvouched | other.unvouched,
            "settings": one.settings | other.settings,
            "evaluators": one.evaluators | other.evaluators,
        }
    )


def _entry(path: Path) -> Imported:
    _, data = read_json(path, LARGEST_RESULT)
    try:
        kind = str(data["eval_type_id"])
        config = data["sae_cfg_dict"]
        metadata = config.get("metadata", config)
        release, sae_id = str(data["sae_lens_release_id"]), str(data["sae_lens_id"])
        settings = dict(data["eval_config"])
        metrics = dict(_flat(data["eval_result_metrics"]))
        evaluator = f"saebench_{re.sub(r'[^a-z0-9]+', '_', kind.lower())}"
        sae = ImportedSae(
            origin=plain(f"{release}/{sae_id}"),
            architecture=plain(str(config.get("architecture") or "unknown")),
            d_in=config.get("d_in"),
            n_latents=config["d_sae"],
            hook=plain(str(metadata["hook_name"])),
        )
        found = {evaluator: _evaluator(evaluator, metrics, settings)}
        unvouched = dict(UNVOUCHED)
        claimed = re.search(r"average_l0_(\d+)", sae_id)
        if claimed is not None:
            found["claimed"] = _claimed_l0(float(claimed[1]))
            unvouched["claimed.l0"] = CLAIMED_L0
        return Imported(
            import_version=1,
            name=re.sub(r"[^a-z0-9]+", "-", f"{release}-{sae_id}".lower()).strip("-")[:80].strip("-"),
            suite="SAEBench",
            suite_commit=data.get("sae_bench_commit_hash"),
            model=plain(str(settings.get("model_name") or metadata["model_name"])),
            sae=sae,
            files={plain(path.name): hashlib.sha256(read_bytes(path, LARGEST_RESULT)).hexdigest()},
            unvouched=unvouched,
            settings={kind: settings},
            evaluators=found,
        )
    except ValidationError as error:
        raise BadFile(f"it is not a result of SAEBench that can be read ({in_words(error)[0]})") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise BadFile(f"it is not a result of SAEBench ({type(error).__name__}: {error})") from error


def _flat(data: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float | None]]:
    """Every number below ``data`` by its path; the groups ``llm`` and ``sae`` are part of the names already."""
    for name, value in data.items():
        if isinstance(value, dict):
            yield from _flat(value, prefix if name in ("llm", "sae") else f"{prefix}{name}.")
        elif value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            yield f"{prefix}{plain(str(name))}", None if value is None or value == -1 else float(value)


def _evaluator(name: str, metrics: dict[str, float | None], settings: dict[str, Any]) -> EvaluatorResult:
    if not any(value is not None for value in metrics.values()):
        raise BadFile("it holds no number")
    made = {key: _metric(key, value) for key, value in metrics.items() if value is not None}
    return EvaluatorResult(name=name, version=1, metrics=made, settings=settings, duration_seconds=0.0)


def _metric(name: str, value: float) -> Metric:
    direction: Literal["lower", "higher", "none"] = "none"
    if not NOT_THE_SAES.search(name):
        direction = "higher" if HIGHER.search(name) else "lower" if LOWER.search(name) else "none"
    description = "As SAEBench reports it" + (
        "; of the language model, without the autoencoder" if direction == "none" else ""
    )
    return Metric(
        name=name, value=value, unit="1", direction=direction, n=0, n_unit="examples, unknown", description=description
    )


def _claimed_l0(value: float) -> EvaluatorResult:
    metric = Metric(
        name="l0", value=value, unit="latents", direction="none", n=0, n_unit="tokens, unknown",
        description="Average L0, taken from the autoencoder's name; not measured here",
    )  # fmt: skip
    return EvaluatorResult(name="claimed", version=1, metrics={"l0": metric}, duration_seconds=0.0)
