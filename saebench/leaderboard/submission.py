"""A submission: a result, its hash, and its submitter."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, StringConstraints, ValidationError

from saebench.errors import plain
from saebench.leaderboard.benchmark import Sha256
from saebench.leaderboard.files import BadFile, Strict, in_words, is_name, read_json
from saebench.results import Result, canonical_hash


def _readable(text: str) -> str:
    if plain(text) != text or not text.strip():
        raise ValueError("is empty or holds control characters")
    return text


def _name(text: str) -> str:
    if not is_name(text):
        raise ValueError("is not a name of lower-case letters and digits with single '.', '-' or '_' between them")
    return text


Readable = Annotated[str, AfterValidator(_readable)]


class Submission(Strict):
    """An entry of a leaderboard.

    Attributes:
        name: of the entry; its file is ``<name>.json``.
        origin: where the weights are available: an address, a name on the hub, or how to make them.
        licence: of the weights.
        contact: who answers questions about the entry.
        command: the command that reproduces the weights, if there is one.
        result_sha256: canonical hash of ``result``.
    """

    submission_version: Literal[1]
    name: Annotated[str, AfterValidator(_name)]
    origin: Annotated[str, StringConstraints(max_length=500), AfterValidator(_readable)]
    licence: Annotated[str, StringConstraints(max_length=100), AfterValidator(_readable)]
    contact: Annotated[str, StringConstraints(max_length=200), AfterValidator(_readable)]
    command: Annotated[str, StringConstraints(max_length=2000), AfterValidator(_readable)] | None = None
    result_sha256: Sha256
    result: Result

    @property
    def autoencoder(self) -> str:
        """The identity of the autoencoder: its weights and its activation function."""
        sae = self.result.sae
        return canonical_hash([sae.weights_sha256, sae.activation])


def make_submission(
    result: Result, name: str, origin: str, licence: str, contact: str, command: str | None = None
) -> Submission:
    """A submission of a result.

    Raises:
        BadFile: a field is not allowed; the message says which.
    """
    fields = {"name": name, "origin": origin, "licence": licence, "contact": contact, "command": command}
    try:
        return Submission(submission_version=1, result_sha256=result_hash(result), result=result, **fields)  # type: ignore[arg-type]
    except ValidationError as error:
        raise BadFile(in_words(error)[0]) from error


def result_hash(result: Result) -> str:
    """Canonical hash of a result: of its JSON with sorted keys."""
    return canonical_hash(json.loads(result.model_dump_json()))


def proposed_name(result: Result) -> str:
    """A name from the architecture, the number of latents and L0."""
    metric = result.evaluators["reconstruction"].metrics.get("l0") if "reconstruction" in result.evaluators else None
    l0 = f"-l0-{metric.value:.0f}" if metric is not None and metric.value is not None else ""
    architecture = re.sub(r"[^a-z0-9]+", "-", result.sae.architecture.lower()).strip("-") or "sae"
    digest = f"-{result.sae.weights_sha256[:8]}" if result.sae.weights_sha256 else ""
    return f"{architecture[:40]}-n{result.sae.n_latents}{l0}{digest}"


def read_submission(path: Path) -> Submission:
    """Read a submission's file, whose hash must match its result.

    Raises:
        BadFile: it is not a submission, or it was altered after its hash was taken.
    """
    text, data = read_json(path)
    try:
        submission = Submission.model_validate_json(text, strict=True)
    except ValidationError as error:
        problems = in_words(error)
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise BadFile(f"it does not follow the schema: {problems[0]}{more}") from error
    if canonical_hash(data["result"]) != submission.result_sha256:
        raise BadFile("its result does not have the hash result_sha256: it was altered after it was submitted")
    return submission


def to_json(submission: Submission) -> str:
    """The text of a submission's file, on one line: samples make up most of it."""
    return submission.model_dump_json() + "\n"
