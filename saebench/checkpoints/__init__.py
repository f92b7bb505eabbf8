"""Checkpoints of every format: recognised, described without loading weights, loaded into ``SparseAutoencoder``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

from saebench.checkpoints.base import Adapter, Location, locate
from saebench.checkpoints.checked import check_info, check_weights
from saebench.checkpoints.given import Given
from saebench.checkpoints.native import save_native
from saebench.errors import ChoicesError, SaebenchError, shortened
from saebench.notices import notice
from saebench.sae import AnyAutoencoder, CheckpointInfo, SparseAutoencoder

GROUP = "saebench.checkpoints"

__all__ = ["Adapter", "Given", "Location", "adapters", "inspect", "load", "recognise", "save_native"]


def adapters() -> list[Adapter]:
    """Every adapter found through the entry points, of this package and of others.

    Raises:
        SaebenchError: an entry point cannot be imported or is not an adapter.
    """
    found: list[Adapter] = []
    for entry in sorted(entry_points(group=GROUP), key=lambda each: each.name):
        try:
            adapter = entry.load()()
        except Exception as error:
            raise SaebenchError(f"The checkpoint adapter {entry.name} ({entry.value}) cannot be loaded: {error}") from error
        if not isinstance(adapter, Adapter):
            raise SaebenchError(f"The entry point {entry.name} ({entry.value}) is not a checkpoint adapter.")
        found.append(adapter)
    return found


def recognise(location: Location) -> Adapter:
    """The adapter of the checkpoint's format.

    Raises:
        SaebenchError: none recognises it, or several do.
    """
    every = adapters()
    fitting = [adapter for adapter in every if not adapter.fallback and adapter.recognise(location)]
    if len(fitting) > 1 and location.given.format is not None:
        fitting = [adapter for adapter in fitting if adapter.name == location.given.format]
    if not fitting:
        fitting = [adapter for adapter in every if adapter.fallback and adapter.recognise(location)]
    if len(fitting) == 1:
        _check_given(location, fitting[0])
        return fitting[0]
    if fitting:
        names = " and ".join(adapter.name for adapter in fitting)
        raise SaebenchError(f"The checkpoint {location.origin} looks like {names}: give the path of one file.")
    looked = "; ".join(f"{adapter.name}: {adapter.looks_for}" for adapter in every)
    there = ", ".join(shortened(name, 60) for name in location.names[:12]) + (", ..." if len(location.names) > 12 else "")
    raise ChoicesError(f"No checkpoint format fits {location.origin}. It has: {there or 'nothing'}. Looked for: {looked}.")


def _check_given(location: Location, adapter: Adapter) -> None:
    """Raise ``SaebenchError`` where the user gives what the checkpoint answers itself: neither is silently preferred."""
    if not adapter.fallback and location.given.format not in (None, adapter.name):
        wrong = location.given.format
        raise SaebenchError(f"{location.origin} is of the format {adapter.name}, not {wrong}: leave out --format.")
    for name in ("activation", "scale"):
        if getattr(location.given, name) is not None and name not in adapter.takes:
            raise SaebenchError(
                f"{location.origin} (format {adapter.name}) states its {name} itself: leave out --{name}, which is for "
                "checkpoints that do not."
            )


@contextmanager
def _one_sentence_errors(location: Location, adapter: Adapter) -> Iterator[None]:
    """Turn the errors of an adapter on fields of the wrong type or shape into one sentence for the user."""
    try:
        yield
    except (ArithmeticError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        detail = "a field is of the wrong type" if isinstance(error, AttributeError | TypeError) else _in_words(error)
        raise SaebenchError(
            f"{location.origin} looks like the format {adapter.name}, but is malformed: {detail}."
        ) from error


def _in_words(error: Exception) -> str:
    text = str(error).partition("\n")[0].rstrip(".")
    if "allocate memory" in text:
        return "it asks for more memory than there is"
    return f"there is no {text}" if isinstance(error, KeyError) else text or "a value is out of range"


def inspect(
    origin: str | Path, *, format: str | None = None, activation: str | None = None, scale: str | None = None
) -> CheckpointInfo:
    """What a checkpoint is, without loading its weights where the format allows.

    Args:
        origin: a local file or folder, or on the hub ``owner/repository[/folder][@revision]``.
        format: see ``Given``; as are ``activation`` and ``scale``. For checkpoints whose files leave these open.

    Raises:
        SaebenchError: it does not exist, is not recognised or damaged.
    """
    location = replace(locate(origin), given=Given(format, activation, scale))
    adapter = recognise(location)
    with _one_sentence_errors(location, adapter):
        return check_info(adapter.describe(location))


def load(
    origin: str | Path,
    device: str = "cpu",
    *,
    format: str | None = None,
    activation: str | None = None,
    scale: str | None = None,
) -> AnyAutoencoder:
    """Load a checkpoint of any format.

    Args:
        origin: a local file or folder, or on the hub ``owner/repository[/folder][@revision]``.
        device: where the weights go; on the CPU they stay memory-mapped where the format allows.
        format: see ``Given``; as are ``activation`` and ``scale``. For checkpoints whose files leave these open.

    Raises:
        SaebenchError: it is not there, not recognised, damaged, leaves something open, or holds NaN or infinite weights.
    """
    location = replace(locate(origin), given=Given(format, activation, scale))
    adapter = recognise(location)
    with _one_sentence_errors(location, adapter):
        sae = adapter.load(location)
        sae = replace(sae, info=check_info(sae.info))
    check_weights(sae)
    sae.check_finite()
    for what, how in sae.info.assumed.items():
        notice(f"{Path(str(origin)).name}: {what}: {how}")
    hashes = adapter.hashes(location)
    combined = hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
    sae = replace(sae, info=replace(sae.info, weights_sha256=combined))
    return sae if device == "cpu" else sae.to(device)


def load_one(origin: str | Path, device: str = "cpu", **given: str | None) -> SparseAutoencoder:
    """As ``load``, for what needs the weights of one encoder and decoder.

    Raises:
        SaebenchError: as ``load``, or it is an autoencoder across layers.
    """
    sae = load(origin, device, **given)
    if not isinstance(sae, SparseAutoencoder):
        raise SaebenchError(
            f"{Path(str(origin)).name} is a {sae.info.architecture}: it can be evaluated, but this command reads "
            "autoencoders of one encoder and decoder."
        )
    return sae
