"""The shapes of SAEBench's result files, read as measurements of one autoencoder each.

Four shapes were published (checked against SAEBench 0.6 and the history of its repository):

1. one evaluation of one autoencoder: ``eval_type_id``, ``eval_config``, ``eval_result_metrics``, ``sae_lens_release_id``,
   ``sae_lens_id``, with ``sae_cfg_dict`` or, before January 2025, without; custom autoencoders have the id ``custom_sae``;
2. the same before November 2024: ``sae_lens_release``, ``eval_results``, ``sae_bench_version``;
3. an object of those by autoencoder, or ``custom_eval_results`` by autoencoder with one ``custom_eval_config``;
4. ``basic_eval_results`` and ``sae_config_dictionary_learning`` by autoencoder.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from saebench.errors import plain
from saebench.leaderboard.files import BadFile, no_duplicates, read_bytes
from saebench.leaderboard.saebench_metrics import GROUPS, kind_from_metrics, kind_of, numbers_in

LARGEST_RESULT = 256 * 2**20
"""Core files hold about 220 bytes for each latent: 230 MB for a million latents."""
DEEPEST = 20
SUFFIXES = re.compile(r"(_eval_results|_data|_results)+$")
METRICS = ("eval_result_metrics", "eval_results")
NAMES = ("eval_type_id", "sae_lens_id", "sae_lens_release_id", "sae_lens_release")
BY_SAE = ("custom_eval_results", "basic_eval_results")
LISTS_OF_SAES = ("selected_saes_dict", "sae_releases", "sae_release", "trainer_ids")
"""Settings that name all autoencoders of a run."""
OLD_NAME = re.compile(r"(?:([^/]+)/)?resid_post_layer_(\d+)(?:_checkpoints)?/(trainer_\d+(?:_step_\d+)?)")
SAE_ID = re.compile(r"(.+?)_(blocks\.\d+\..+|layer_\d+/.+|custom_sae)")


@dataclass(frozen=True)
class Measurement:
    """What one file says about one autoencoder in one evaluation.

    Attributes:
        release, sae_id: the autoencoder's names, as SAELens spells them.
        kind: the evaluation; ``metrics``: its numbers.
        settings: of the evaluation.
        config: of the autoencoder; empty where the file has none.
        problems: what of it cannot be imported, as sentences without a full stop.
    """

    release: str
    sae_id: str
    kind: str
    metrics: dict[str, float]
    settings: dict[str, Any]
    config: dict[str, Any]
    commit: str | None
    problems: list[str] = field(default_factory=list)

    @property
    def origin(self) -> str:
        """The autoencoder's name in messages and tables."""
        return f"{self.release}/{self.sae_id}"


def read_measurements(path: Path) -> tuple[bytes, list[Measurement], list[str]]:
    """``(content, measurements, problems)`` of a file; links are followed, since downloads consist of them.

    Raises:
        BadFile: nothing of it can be read as a result of SAEBench.
    """
    content = read_bytes(_resolved(path), LARGEST_RESULT)
    data = _parsed(content)
    stem = SUFFIXES.sub("", path.stem) or path.stem
    if not isinstance(data, dict):
        raise BadFile("it is not a result of SAEBench: it holds no JSON object")
    if any(key in data for key in METRICS):
        return content, [_single(data, ("", stem))], []
    if any(key in data for key in NAMES):
        raise BadFile(f"it is not a result of SAEBench: it has no {METRICS[0]}")
    found: list[Measurement] = []
    failed: dict[str, list[str]] = {}
    for name, item in _items(data, stem):
        try:
            found.append(item())
        except BadFile as error:
            failed.setdefault(str(error), []).append(plain(name)[:120])
    problems = [
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {words}" for words, names in failed.items()
    ]
    if not found and not problems:
        raise BadFile(f"it is not a result of SAEBench: it has none of {', '.join((*METRICS, *BY_SAE))}")
    return content, found, problems


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise BadFile("it is a link or cannot be read") from error


def _parsed(content: bytes) -> Any:
    """JSON in which a number that is none, or too large, is kept as its text."""
    try:
        text = content.decode("utf-8")
        return json.loads(
            text, object_pairs_hook=no_duplicates, parse_constant=str, parse_float=_finite, parse_int=_not_too_long
        )
    except UnicodeDecodeError as error:
        raise BadFile("it is not UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise BadFile(f"it is not JSON (line {error.lineno}: {error.msg})") from error
    except RecursionError as error:
        raise BadFile("it is nested too deeply") from error
    except ValueError as error:
        raise BadFile(str(error)) from error


def _finite(text: str) -> float | str:
    value = float(text)
    return value if math.isfinite(value) else text


def _not_too_long(text: str) -> int | str:
    return int(text) if len(text) <= 300 else text


def _items(data: dict[str, Any], stem: str) -> Iterator[tuple[str, Callable[[], Measurement]]]:
    """The parts of a file with several autoencoders: the name of each in the file, and what reads it."""
    if "custom_eval_results" in data:
        settings = _object(data, "custom_eval_config")
        for name, metrics in _object(data, "custom_eval_results").items():
            given = {"eval_config": settings, "eval_results": metrics}
            yield name, partial(_listed, name, given, stem)
    elif "basic_eval_results" in data:
        configs = _object(data, "sae_config_dictionary_learning")
        for name, metrics in _object(data, "basic_eval_results").items():
            yield name, partial(_basic, name, metrics, configs.get(name), stem)
    elif any(_is_result(item) for item in data.values()):
        settings = _object(data, "custom_eval_config")
        for name, item in data.items():
            if name != "custom_eval_config":
                yield name, partial(_wrapped, name, item, settings)


def _is_result(data: Any) -> bool:
    return isinstance(data, dict) and any(key in data for key in (*METRICS, *GROUPS))


def _wrapped(name: str, data: Any, settings: dict[str, Any]) -> Measurement:
    if not isinstance(data, dict):
        raise BadFile("it is not a result of SAEBench: it holds no JSON object")
    if not any(key in data for key in METRICS):
        data = {"eval_results": data}
    return _single({"eval_config": settings, **data}, _named(name))


def _basic(name: str, metrics: Any, config: Any, stem: str) -> Measurement:
    if not isinstance(metrics, dict):
        raise BadFile("it is not a result of SAEBench: it holds no JSON object")
    given = {
        "eval_type_id": "basic",
        "eval_config": metrics.get("hyperparameters"),
        "eval_results": {key: value for key, value in metrics.items() if key != "hyperparameters"},
        "sae_cfg_dict": config.get("trainer") if isinstance(config, dict) else config,
    }
    return _listed(name, given, stem)


def _listed(name: str, given: dict[str, Any], stem: str) -> Measurement:
    """An autoencoder of an old file; its release is in its name, the run's list of autoencoders, or the file's name."""
    settings = _object(given, "eval_config")
    chosen = settings.get("selected_saes_dict")
    single = settings.get("sae_release")
    release = single if isinstance(single, str) else stem
    for each, names in chosen.items() if isinstance(chosen, dict) else ():
        if isinstance(names, list) and name in names:
            release = each
    old = OLD_NAME.fullmatch(name)
    return _single(given, (f"sae_bench_{old[1]}" if old and old[1] else release, name))


def _named(name: str) -> tuple[str, str]:
    """``(release, id)`` from ``<release>_<id>``, as files and keys are named."""
    found = SAE_ID.fullmatch(name)
    return (found[1], found[2]) if found else ("", name)


def _single(data: dict[str, Any], name: tuple[str, str]) -> Measurement:
    """One evaluation of one autoencoder; ``name`` is used where the file holds no names."""
    settings = _without_surrogates(_object(data, "eval_config"))
    metrics = _metrics_of(data)
    named = _text(data, "eval_type_id")
    numbers, problems = numbers_in(metrics, kind_of(named) if named else None)
    kind = kind_of(named) if named else kind_from_metrics(list(numbers))
    if not kind:
        shown = ", ".join(list(numbers)[:3]) or "none"
        raise BadFile(f"it does not say of which evaluation it is (eval_type_id), and its metrics do not tell it ({shown})")
    if not numbers:
        raise BadFile(f"it holds no number{f' ({problems[0]})' if problems else ''}")
    release = _text(data, "sae_lens_release_id") or _text(data, "sae_lens_release")
    sae_id = _text(data, "sae_lens_id")
    if release is None or sae_id is None:
        release, sae_id = release or name[0] or name[1], sae_id or name[1]
    old = OLD_NAME.fullmatch(sae_id)
    return Measurement(
        release=plain(release)[:200].strip() or "unnamed",
        sae_id=(f"blocks.{old[2]}.hook_resid_post__{old[3]}" if old else plain(sae_id)[:200].strip()) or "unnamed",
        kind=kind,
        metrics=numbers,
        settings={key: value for key, value in settings.items() if key not in LISTS_OF_SAES},
        config=_without_surrogates(_object(data, "sae_cfg_dict")),
        commit=_commit(data),
        problems=problems,
    )


def _metrics_of(data: dict[str, Any]) -> dict[str, Any]:
    metrics = next(data[key] for key in METRICS if key in data)
    if isinstance(metrics, list):
        metrics = _description_lengths(metrics)
    if not isinstance(metrics, dict):
        raise BadFile(f"it is not a result of SAEBench: {next(key for key in METRICS if key in data)} is not an object")
    by_k = data.get("sae_metrics_by_k")
    if isinstance(by_k, dict):
        given = {
            f"sae_top_{k}_{name}": value
            for k, each in by_k.items()
            if isinstance(each, dict)
            for name, value in each.items()
        }
        own = metrics.get("sae")
        metrics = {**metrics, "sae": {**given, **(own if isinstance(own, dict) else {})}}
    return metrics


def _description_lengths(results: list[Any]) -> dict[str, Any]:
    """The list of minimum description lengths by number of bins and k."""
    found: dict[str, Any] = {}
    for each in results:
        if not isinstance(each, dict) or "num_bins" not in each:
            raise BadFile(
                "it is not a result of SAEBench: eval_results is a list of something else than description lengths"
            )
        k = "" if each.get("k") is None else f"_k_{each['k']}"
        for name in ("description_length", "mse_loss"):
            found[f"bins_{each['num_bins']}{k}.{name}"] = each.get(name)
    return found


def _object(data: dict[str, Any], key: str) -> dict[str, Any]:
    value = data.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadFile(f"it is not a result of SAEBench: {key} is not an object")
    _refuse_deep(value, key)
    return value


def _refuse_deep(data: Any, name: str) -> None:
    waiting = [(data, 0)]
    while waiting:
        each, depth = waiting.pop()
        if depth > DEEPEST:
            raise BadFile(f"it is nested too deeply, in {name}")
        if isinstance(each, dict | list):
            waiting += [(below, depth + 1) for below in (each.values() if isinstance(each, dict) else each)]


def _text(data: dict[str, Any], key: str) -> str | None:
    value = data.get(key)
    if value is not None and not isinstance(value, str):
        raise BadFile(f"it is not a result of SAEBench: {key} is not text")
    return value or None


def _commit(data: dict[str, Any]) -> str | None:
    value = data.get("sae_bench_commit_hash") or data.get("sae_bench_version")
    return plain(value)[:64] if isinstance(value, str) else None


def _without_surrogates(data: Any) -> Any:
    """Settings with text that can be written as UTF-8."""
    if isinstance(data, dict):
        return {_without_surrogates(key): _without_surrogates(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_without_surrogates(each) for each in data]
    return data.encode("utf-8", "replace").decode() if isinstance(data, str) else data
