"""``verified.json``: which submissions of a leaderboard a maintainer has reproduced from their checkpoints."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from saebench.files import write_text
from saebench.leaderboard.benchmark import Sha256
from saebench.leaderboard.files import VERIFIED, BadFile, Strict, in_words, read_json
from saebench.leaderboard.submission import Submission
from saebench.version import __version__


class Verification(Strict):
    """That the checkpoint gave a submission's values.

    Attributes:
        result_sha256: of the result that was reproduced: a later change of the submission voids the mark.
        date: when; ``saebench``: with which version.
        part: what was evaluated again, in words; ``seed``: from which it was drawn.
    """

    result_sha256: Sha256
    date: date
    saebench: str = Field(max_length=50)
    part: str = Field(max_length=200)
    seed: int


class Verifications(Strict):
    """The file: by name of the submission."""

    verified_version: Literal[1]
    entries: dict[str, Verification]


def read_verified(folder: Path) -> dict[str, Verification]:
    """The verifications of a leaderboard's folder; none where there is no file.

    Raises:
        BadFile: the file is invalid.
    """
    path = folder / VERIFIED
    if not path.exists():
        return {}
    text, _ = read_json(path)
    try:
        return Verifications.model_validate_json(text).entries
    except ValidationError as error:
        raise BadFile(f"it does not follow the schema ({in_words(error)[0]})") from error


def verification(submission: Submission, part: str, seed: int) -> Verification:
    """A verification, made now."""
    return Verification(
        result_sha256=submission.result_sha256,
        date=datetime.now(UTC).date(),
        saebench=__version__,
        part=part,
        seed=seed,
    )


def mark(folder: Path, name: str, made: Verification) -> Path:
    """Record a verification in a leaderboard's folder.

    Raises:
        BadFile: the file that is there is invalid.
    """
    entries = {**read_verified(folder), name: made}
    whole = Verifications(verified_version=1, entries=dict(sorted(entries.items())))
    path = folder / VERIFIED
    write_text(path, json.dumps(whole.model_dump(mode="json"), indent=1) + "\n")
    return path
