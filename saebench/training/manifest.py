"""The manifest of a sweep: what was trained, with which settings, and what came out; weights are named by their hash."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saebench.checkpoints.native import WEIGHTS
from saebench.errors import SaebenchError
from saebench.files import write_text
from saebench.lm.embedded import file_sha256
from saebench.parsing import parse_json
from saebench.provenance import portable_name

MANIFEST = "manifest.json"
FIGURES = ("tokens", "epochs", "seconds", "final", "control", "complete")


def write_manifest(folder: Path, recipe: str, records: Mapping[str, dict[str, Any]]) -> Path:
    """Write ``manifest.json`` in a sweep's folder; members of earlier runs there are kept.

    Args:
        folder: with a folder for each member.
        recipe: that the sweep was read from, by name.
        records: the training record of each member's checkpoint.

    Raises:
        SaebenchError: there is a manifest that cannot be read, or it is of another recipe.
    """
    path = folder / MANIFEST
    members: dict[str, Any] = {}
    if path.exists():
        try:
            earlier = parse_json(path.read_text(encoding="utf-8"))
            members = dict(earlier["members"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SaebenchError(f"{path} is not a manifest of a sweep: delete it, and it is written again.") from error
        if earlier.get("recipe") != recipe:
            raise SaebenchError(f"{path} is of the recipe {earlier.get('recipe')!r}: choose another folder.")
    for name, record in records.items():
        figures = {key: record[key] for key in FIGURES if key in record}
        members[name] = {
            "weights_sha256": file_sha256(folder / name / WEIGHTS),
            "settings": record["config"] | {"corpus": portable_name(record["config"]["corpus"])},
            "text_sha256": record["activations"]["corpus"],
            **figures,
        }
    write_text(path, json.dumps({"recipe": recipe, "members": dict(sorted(members.items()))}, indent=1) + "\n")
    return path
