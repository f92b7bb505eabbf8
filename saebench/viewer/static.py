"""The same pages as files: ``index.html``, and data in scripts next to it, which open from a file without a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from saebench.errors import SaebenchError
from saebench.files import write_text
from saebench.progress import Progress
from saebench.viewer.content import Content
from saebench.viewer.live import Live
from saebench.viewer.page import render_page

PER_FILE = 64
"""Latents whose pages share a file."""
ROWS_PER_FILE = 4096
"""Latents whose rows of the list share a file."""
MARK = "saebench-viewer.json"


def write_static(content: Content, live: Live | None, folder: str | Path, progress: Progress) -> int:
    """Write the pages of all latents; returns the number of files. ``index.html`` is written last.

    Raises:
        SaebenchError: the folder holds other files, or cannot be written.
    """
    folder = Path(folder)
    check_static_target(folder)
    write_text(folder / MARK, json.dumps({"format": "saebench-viewer", "version": 1}) + "\n")
    model = live.model() if live is not None else None
    n = content.n_latents
    with progress.task("Writing pages", total=n, unit="latents") as advance:
        for part, start in enumerate(range(0, n, PER_FILE)):
            stop = min(start + PER_FILE, n)
            pages = [content.latent(number) for number in range(start, stop)]
            if live is not None:
                for page, found in zip(pages, live.weights().all_neighbours(start, stop), strict=True):
                    densities = content.densities([latent for latent, _ in found])
                    page["neighbours"] = [
                        {"latent": latent, "cosine": cosine, "density": density}
                        for (latent, cosine), density in zip(found, densities, strict=True)
                    ]
            if model is not None:
                for page, lens in zip(pages, model.lens(range(start, stop)), strict=True):
                    page["lens"] = lens
            _write(folder, f"latents-{part:05d}", pages)
            advance(stop - start)
    overview = content.overview() | {"weights": live is not None, "live": False, "per_file": PER_FILE}
    overview["rows_per_file"] = ROWS_PER_FILE
    parts = range(0, n, ROWS_PER_FILE)
    for part, start in enumerate(parts):
        _write(folder, f"list-{part:05d}", [content._row(number) for number in range(start, min(start + ROWS_PER_FILE, n))])
    write_text(folder / "index.html", render_page(overview["name"], overview))
    return -(-n // PER_FILE) + len(parts) + 2


def check_static_target(folder: Path) -> None:
    """Raise ``SaebenchError`` unless the folder is new, empty or holds such pages."""
    try:
        if folder.exists() and any(folder.iterdir()) and not (folder / MARK).is_file():
            raise SaebenchError(f"{folder} holds other files: choose a new folder for the pages.")
    except OSError as error:
        raise SaebenchError(f"Cannot write {folder}: {error.strerror}.") from error


def _write(folder: Path, name: str, data: Any) -> None:
    """A script that passes its data to the page."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    write_text(folder / "data" / f"{name}.js", f'saebenchData("{name}",{text});\n')
