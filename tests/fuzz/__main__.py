"""``python -m tests.fuzz``: mutated inputs to every reader, and a table of what came of them."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import faulthandler
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from saebench.errors import plain
from tests.fuzz.reader import Outcome, Trial, limits, timed
from tests.fuzz.readers import READERS

console = Console(width=150)


def main() -> int:
    """Run; exit code 1 if there is a fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--reader", help="this one alone; several separated by commas")
    parser.add_argument("--seed", type=int, help="this input alone, with its outcome in words")
    parser.add_argument("--inputs", type=int, default=20_000, help="mutated inputs for each reader")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--list", action="store_true", help="list the readers")
    given = parser.parse_args()
    faulthandler.enable()  # a crash in a library's own code is a fault as well
    names = given.reader.split(",") if given.reader else list(READERS)
    if given.list or not set(names) <= set(READERS):
        print("\n".join(READERS))
        return 0 if given.list else 2
    seeds = range(given.first, given.first + given.inputs) if given.seed is None else [given.seed]
    table = Table("Reader", *("Inputs", "Read", "Refused", "Faults", "Inputs a second"), show_edge=False)
    faults = 0
    for name in names:
        with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
            trial = Trial(READERS[name], Path(folder))
            with limits():
                began = time.perf_counter()
                found = [timed(trial, seed) for seed in seeds]
                took = time.perf_counter() - began
        counts = Counter(each.kind for each in found)
        print(f"{name}: {len(found) / took:,.0f} inputs a second, {counts['fault']} faults", file=sys.stderr, flush=True)
        _show(name, found, given.seed is not None)
        faults += counts["fault"]
        numbers = [len(found), counts["read"], counts["refused"], counts["fault"], len(found) / took]
        table.add_row(name, *(f"{number:,.0f}" for number in numbers))
    console.print(table)
    return int(faults > 0)


def _show(name: str, found: list[Outcome], every: bool) -> None:
    """The faults, one of each kind with its seed."""
    seen: Counter[str] = Counter()
    for each in found:
        if not (each.kind == "fault" or every):
            continue
        key = each.words.partition(": ")[0]
        seen[key] += 1
        if seen[key] == 1:
            console.print(Text(plain(f"{name} --seed {each.seed}: {each.kind} {each.words}")))
    for key, count in seen.items():
        if count > 1:
            console.print(Text(plain(f"    {count} times: {key}")))


if __name__ == "__main__":
    sys.exit(main())
