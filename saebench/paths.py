"""Where saebench keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$SAEBENCH_CACHE``, else ``saebench`` in the user's cache folder. Made where it is missing."""
    given = os.environ.get("SAEBENCH_CACHE")
    base = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "saebench"
    base.mkdir(parents=True, exist_ok=True)
    return base
