"""Where saebench keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path

from saebench.errors import SaebenchError


def cache_folder() -> Path:
    """``$SAEBENCH_CACHE``, else ``saebench`` in the user's cache folder. Made where it is missing.

    Raises:
        SaebenchError: it cannot be made.
    """
    given = os.environ.get("SAEBENCH_CACHE")
    base = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "saebench"
    try:
        base.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SaebenchError(
            f"The cache folder {base} cannot be made ({error.strerror}): name another in SAEBENCH_CACHE."
        ) from error
    return base
