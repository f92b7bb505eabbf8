"""One command for a GPU that was just lent: kernels against the reference, then speed; no hub, at most eight minutes.

``python -m tests.device --out device.json`` needs saebench's libraries alone. ``--tiny`` runs everything in small on a CPU.
The file is written after each part, so that what is there is kept where the time ends; a part that would start too late is
left out, and the file says so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from tests.device import evaluation, kernels, suite, training
from tests.device.sizes import FULL, TINY, Sizes

PARTS: dict[str, tuple[Callable[[Sizes], dict[str, Any]], float]] = {
    "kernels": (kernels.run, 90),
    "evaluation": (evaluation.run, 180),
    "training": (training.run, 60),
    "suite": (suite.run, 120),
}
"""Each part with the seconds that it is expected to need at full size; it starts only where as many are left."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.device")
    parser.add_argument("--out", type=Path, default=Path("device.json"))
    parser.add_argument("--tiny", action="store_true", help="everything in small, on a CPU")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    given = parser.parse_args(arguments)
    unknown = set(given.only.split(",")) - set(PARTS)
    if unknown:
        parser.error(f"there is no part {sorted(unknown)[0]}; there are {', '.join(PARTS)}")
    gpu = torch.cuda.is_available()
    if not gpu and not given.tiny:
        print("No GPU is at hand: run with --tiny to try everything in small on the CPU.", file=sys.stderr)
        return 2
    sizes = TINY if given.tiny else FULL
    found = head(gpu, given.tiny)
    ends = time.monotonic() + 60 * given.minutes
    for name in given.only.split(","):
        part, expected = PARTS[name]
        left = ends - time.monotonic()
        if left < expected and not given.tiny:
            found["parts"][name] = {"left_out": f"{left:.0f} s were left, {expected:.0f} are expected"}
        else:
            found["parts"][name] = timed(part, sizes)
        write(given.out, found)
        print(f"{name}: {json.dumps(found['parts'][name])[:600]}", flush=True)
    failed = [name for name, each in found["parts"].items() if "error" in each or not each.get("correct", True)]
    print(f"Written: {given.out}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def head(gpu: bool, tiny: bool) -> dict[str, Any]:
    """What was measured on what."""
    card = torch.cuda.get_device_name() if gpu and not tiny else None
    return {
        "device": card or f"CPU ({platform.machine()}); no GPU was used, so nothing here says how fast one is",
        "gpu": card is not None,
        "tiny": tiny,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "parts": {},
    }


def timed(part: Callable[[Sizes], dict[str, Any]], sizes: Sizes) -> dict[str, Any]:
    """The part's figures, or its error: the other parts are run all the same."""
    start = time.perf_counter()
    try:
        found = part(sizes)
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {error}", "where": traceback.format_exc()[-1500:]}
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return {**found, "seconds": round(time.perf_counter() - start, 2)}


def write(path: Path, found: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(found, indent=1) + "\n")
    os.replace(temporary, path)


if __name__ == "__main__":
    sys.exit(main())
