"""Results of SAEBench (Karvonen et al.) as rows of the same tables, with everything that cannot be verified marked as such.

Its files hold the numbers of autoencoders without hashes of their weights or of the text, and without errors. All that is
known of one autoencoder becomes one entry; what cannot be imported is named, and the rest is imported.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, Field, ValidationError

from saebench.errors import plain
from saebench.leaderboard.benchmark import Sha256
from saebench.leaderboard.files import LONGEST_NAME, BadFile, Strict, in_words, is_name, read_json
from saebench.leaderboard.saebench_files import Measurement, read_measurements
from saebench.leaderboard.saebench_metrics import metric_of
from saebench.leaderboard.saebench_sae import describe, evaluated_model, own_model, short
from saebench.leaderboard.submission import Readable
from saebench.results import EvaluatorResult, JsonObject, Metric

UNVOUCHED = {
    "weights": "the file holds no hash of the autoencoder's weights",
    "text": "the file holds no hash of the text or of the rows that were drawn",
    "errors": "the file holds no standard errors",
}
CLAIMED_L0 = "taken from the autoencoder's name, which says the average L0 that its authors measured"
ON_ANOTHER_MODEL = ("unlearning",)
"""Evaluations that run on the instruction-tuned version of an autoencoder's model."""


class ImportedSae(Strict):
    """The autoencoder, as the files name it; a size is None where no file and no name tells it."""

    origin: Readable
    architecture: Readable
    d_in: int | None = Field(default=None, gt=0)
    n_latents: int | None = Field(default=None, gt=0)
    hook: Readable


class Imported(Strict):
    """An entry that another suite measured.

    Attributes:
        files: SHA-256 of its source files, by evaluation and name.
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


class Imports(NamedTuple):
    """What files gave: entries, and what could not be imported, as sentences that begin with the file."""

    entries: list[Imported]
    problems: list[str]


class _Source(NamedTuple):
    """A measurement and its file."""

    path: Path
    sha256: str
    found: Measurement


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


def import_saebench(paths: Sequence[Path], hook: str | None = None, model: str | None = None) -> Imports:
    """Entries from SAEBench's files; files of one autoencoder are merged.

    Args:
        paths: result files, or folders with such files.
        hook, model: used for autoencoders whose files and names do not tell them.
    """
    problems: list[str] = []
    groups: dict[tuple[str, str], list[_Source]] = {}
    for path in _files(paths, problems):
        try:
            content, found, unread = read_measurements(path)
        except BadFile as error:
            problems.append(_problem(path, str(error)))
            continue
        problems += [_problem(path, each) for each in unread]
        sha256 = hashlib.sha256(content).hexdigest()
        for each in found:
            groups.setdefault((each.release, each.sae_id), []).append(_Source(path, sha256, each))
    made: dict[tuple[str, str, str], Imported] = {}
    for sources in groups.values():
        for name, same in _by_model(sources, model, problems):
            entry = _entry(name, same, hook, problems)
            if entry is None:
                continue
            key = (entry.model.lower(), entry.sae.hook.lower(), entry.name)
            if key in made:
                problems.append(_problem(same[0].path, f"{entry.sae.origin} would have the file of {made[key].sae.origin}"))
            else:
                made[key] = entry
    return Imports(list(made.values()), problems)


def merged(earlier: Imported, now: Imported) -> Imported:
    """An entry with the evaluations of an earlier import that the new one does not have.

    Raises:
        BadFile: the earlier entry is of another autoencoder.
    """
    if earlier.sae.origin != now.sae.origin:
        raise BadFile(f"{now.name} is the entry of {earlier.sae.origin} already")
    kept = {name: each for name, each in earlier.evaluators.items() if name not in now.evaluators}
    kinds = {name.removeprefix("saebench_") for name in now.evaluators}
    before, after = earlier.sae, now.sae
    sae = {name: getattr(before, name) for name in ("d_in", "n_latents") if getattr(after, name) is None}
    unvouched = dict(now.unvouched)
    if "n_latents" in unvouched and "n_latents" not in earlier.unvouched and before.n_latents is not None:
        sae["n_latents"] = before.n_latents
        del unvouched["n_latents"]
    if after.architecture == "unknown":
        sae["architecture"] = before.architecture
    notes = {name: words for name, words in earlier.unvouched.items() if name.partition(".")[0] in kept}
    files = {name: sha256 for name, sha256 in earlier.files.items() if name.partition("/")[0] not in kinds}
    return now.model_copy(
        update={
            "sae": after.model_copy(update=sae),
            "suite_commit": now.suite_commit or earlier.suite_commit,
            "files": files | now.files,
            "unvouched": notes | unvouched,
            "settings": earlier.settings | now.settings,
            "evaluators": kept | now.evaluators,
        }
    )


def _files(paths: Sequence[Path], problems: list[str]) -> list[Path]:
    """The files, and those in folders in order of their names."""
    found: list[Path] = []
    for path in paths:
        inside = sorted(path.rglob("*.json")) if path.is_dir() else [path]
        if not inside:
            problems.append(_problem(path, "it is a folder without a file *.json"))
        found += inside
    return found


def _problem(path: Path, words: str) -> str:
    return f"{plain(str(path))}: {words}"


def _by_model(sources: list[_Source], option: str | None, problems: list[str]) -> list[tuple[str, list[_Source]]]:
    """An autoencoder's measurements by language model; those of the instruction-tuned version go with its model's."""
    main = {
        short(name): None
        for each in sources
        if each.found.kind not in ON_ANOTHER_MODEL and (name := _model_of(each.found)) is not None
    }
    only = next(iter(main)) if len(main) == 1 else None
    groups: dict[str, list[_Source]] = {}
    names: dict[str, str] = {}
    for each in sources:
        own, name = own_model(each.found), _model_of(each.found)
        if only is not None and (name is None or (each.found.kind in ON_ANOTHER_MODEL and own is None)):
            key = only
        elif name is None and option is None:
            problems.append(
                _problem(each.path, f"nothing says the language model of {each.found.origin}: give it with --model")
            )
            continue
        else:
            key = short(name or option or "")
        groups.setdefault(key, []).append(each)
        spelled = [text for text in (name, own, option if name is None else None) if text and short(text) == key]
        names[key] = min([*spelled, *([names[key]] if key in names else [])], key=len, default=key)
    return [(names[key], same) for key, same in groups.items()]


def _model_of(found: Measurement) -> str | None:
    own, evaluated = own_model(found), evaluated_model(found)
    return own or evaluated if found.kind in ON_ANOTHER_MODEL else evaluated or own


def _entry(model: str, sources: list[_Source], hook: str | None, problems: list[str]) -> Imported | None:
    """The entry of one autoencoder on one model; None, with a problem, where there cannot be one."""
    used: list[_Source] = []
    evaluators: dict[str, EvaluatorResult] = {}
    unvouched = dict(UNVOUCHED)
    for each in sources:
        name = f"saebench_{each.found.kind}"
        other = next((source.path for source in used if source.found.kind == each.found.kind), None)
        if other is not None:
            words = f"{each.found.origin} already has results of {name}, from {plain(str(other))}"
            problems.append(_problem(each.path, words))
            continue
        try:
            described = describe([source.found for source in (*used, each)], hook)
        except BadFile as error:
            problems.append(_problem(each.path, str(error)))
            continue
        used.append(each)
        problems += [_problem(each.path, f"{words}, and is left out") for words in each.found.problems]
        evaluators[name] = _evaluator(name, each.found)
        evaluated = evaluated_model(each.found)
        if evaluated is not None and short(evaluated) != short(model):
            unvouched[name] = f"measured on the language model {plain(evaluated)[:200]}"
    if not used:
        return None
    found = used[0].found
    claimed = re.search(r"average_l0_(\d{1,9})", found.sae_id)
    if claimed is not None:
        evaluators["claimed"] = _claimed_l0(float(claimed[1]))
        unvouched["claimed.l0"] = CLAIMED_L0
    try:
        return Imported(
            import_version=1,
            name=_entry_name(found),
            suite="SAEBench",
            suite_commit=next((each.found.commit for each in used if each.found.commit), None),
            model=plain(model)[:200],
            sae=ImportedSae(
                origin=found.origin, architecture=described.architecture, d_in=described.d_in,
                n_latents=described.n_latents, hook=described.hook,
            ),
            files={f"{each.found.kind}/{plain(each.path.name)}": each.sha256 for each in used},
            unvouched=unvouched | described.unvouched,
            settings={each.found.kind: each.found.settings for each in used},
            evaluators=evaluators,
        )  # fmt: skip
    except ValidationError as error:
        problems.append(_problem(used[0].path, f"it is not a result of SAEBench that can be read ({in_words(error)[0]})"))
        return None


def _entry_name(found: Measurement) -> str:
    """A file's name from the autoencoder's; one that is too long ends with a hash, so that no two become the same."""
    full = f"{found.release}-{found.sae_id}"
    name = re.sub(r"[^a-z0-9]+", "-", full.lower()).strip("-")
    if len(name) > LONGEST_NAME or not is_name(name):
        digest = hashlib.sha256(full.encode()).hexdigest()[:8]
        name = f"{'' if is_name(name[:8]) else 'sae-'}{name[: LONGEST_NAME - 20].strip('-')}-{digest}".replace("--", "-")
    return name


def _evaluator(name: str, found: Measurement) -> EvaluatorResult:
    metrics = {key: metric_of(key, value) for key, value in found.metrics.items()}
    return EvaluatorResult(name=name, version=1, metrics=metrics, settings=found.settings, duration_seconds=0.0)


def _claimed_l0(value: float) -> EvaluatorResult:
    metric = Metric(
        name="l0", value=value, unit="latents", direction="none", n=0, n_unit="tokens, unknown",
        description="Average L0, taken from the autoencoder's name; not measured here",
    )  # fmt: skip
    return EvaluatorResult(name="claimed", version=1, metrics={"l0": metric}, duration_seconds=0.0)
