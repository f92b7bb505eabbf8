"""The documentation is checked against the code: links, reference pages, metric names, settings, commands."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from saebench.cli import app
from saebench.definitions import load_definition
from saebench.evaluators import dictionary_pair
from saebench.evaluators.ablation import Ablation
from saebench.evaluators.base import Evaluator, installed_evaluators
from saebench.evaluators.progressive import Progressive
from saebench.evaluators.shrinkage import Shrinkage
from saebench.explaining.n2g.baselines import BASELINES
from saebench.probing.protocol import read_protocol
from saebench.probing.sparse import read_sparse_protocol
from saebench.sae import SparseAutoencoder
from tests import reference_tables

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
METRICS = ROOT / "tests/fixtures/metrics_of_a_result.json"
"""Unit and direction of every metric of one real result with all built-in evaluators, by evaluator."""
SUITE = ROOT / "docs/saebench-suite.md"
"""SAEBench's evaluations have a section each in this page instead of a page of their own."""
EVALUATORS = sorted(
    name
    for name, each in installed_evaluators().items()
    if each.__module__.startswith("saebench.") and f"\n## {name}\n" not in SUITE.read_text(encoding="utf-8")
)
HEADINGS = ["Question", "Definition", "Metrics", "Settings", "Cost", "Pitfalls"]
FOLDERS = "saebench|tests|docs|tasks|probes|explain|leaderboards"

each_page = pytest.mark.parametrize("page", PAGES, ids=[page.relative_to(ROOT).as_posix() for page in PAGES])
each_evaluator = pytest.mark.parametrize("name", EVALUATORS)


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^(```|~~~).*?^\1\s*$", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)


def fenced_lines(page: Path) -> Iterator[str]:
    """Lines of the page's fenced blocks, those that end in a backslash joined with the next."""
    for block in re.findall(r"^```[^\n]*\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.S | re.M):
        yield from block.replace("\\\n", " ").splitlines()


def inline_code(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(page))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-") for heading in headings}


def section(page: Path, heading: str) -> str:
    return re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.M)[1 + HEADINGS.index(heading)]


def table(text: str) -> dict[str, list[str]]:
    """Rows whose first cell is a name in backticks: the other cells, by name."""
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in text.splitlines() if line[:3] == "| `"]
    return {row[0].strip("`"): row[1:] for row in rows}


def reference(name: str) -> Path:
    return ROOT / "docs/evaluators" / f"{name}.md"


def expanded(name: str) -> list[str]:
    """The metrics that a row with a placeholder stands for."""
    if name.startswith("BASELINE_"):
        return [name.replace("BASELINE", each) for each in BASELINES]
    if "_K_" in name:
        return [name.replace("_K_", f"_{k}_") for k in read_sparse_protocol("saebench").probe.k]
    if name.endswith("_K"):
        return [f"{name[:-1]}{k}" for k in read_protocol().k_sparse.probe.k]
    return [name]


def documented_metrics(text: str) -> dict[str, tuple[str, str]]:
    """Unit and direction of each metric in a table."""
    return {each: (cells[0], cells[1]) for name, cells in table(text).items() for each in expanded(name)}


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT) and target.exists(), f"{link}: there is no such file"
        assert not anchor or anchor in anchors(target), f"{link}: there is no such heading"


@each_page
def test_pages_use_the_words_of_the_glossary(page: Path) -> None:
    """CONTRIBUTING.md names the words that are not used; a page's quoted output may hold them."""
    text = prose(page).partition("\n## Words\n")[0] if page.name == "CONTRIBUTING.md" else prose(page)
    assert not re.findall(r"(?i)\b(?:judge\w*|anew|goes on|gone on|go on|shared? out|stands? beside|stubborn\w*)\b", text)


@each_page
def test_paths_in_the_text_exist(page: Path) -> None:
    for code in inline_code(page):
        if re.fullmatch(rf"({FOLDERS})/[\w.*/-]*", code) and not re.search(r"\b[A-Z]{4,}\b(?!\.md$)|NAME", code):
            assert list(ROOT.glob(code.rstrip("/"))), f"{code} does not exist"


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs/index.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in re.findall(r"\]\(([^)\s]+)\)", prose(index))}
    assert {page for page in PAGES if page.is_relative_to(ROOT / "docs")} - linked == {index}


def test_the_readme_names_every_evaluator() -> None:
    rows = re.findall(r"^\| \[`(\w+)`\]\(docs/evaluators/(\w+)\.md\)", prose(ROOT / "README.md"), flags=re.M)
    assert sorted(rows) == [(name, name) for name in EVALUATORS]


@each_evaluator
def test_reference_pages_have_one_form(name: str) -> None:
    text = prose(reference(name))
    assert re.findall(r"^# (.+)$", text, flags=re.M) == [name]
    assert re.findall(r"^## (.+)$", text, flags=re.M) == HEADINGS
    assert all(section(reference(name), heading).partition("\n")[2].strip() for heading in HEADINGS)


@each_evaluator
def test_reference_pages_list_the_metrics_that_results_hold(name: str) -> None:
    """Names, units and directions, against an accepted result with all evaluators."""
    metrics = json.loads(METRICS.read_text(encoding="utf-8"))[name]
    measured = {each: (unit, direction) for each, (unit, direction) in metrics.items()}
    own = section(reference(name), "Metrics").partition("\n### ")[0]
    documented = documented_metrics(own)
    assert documented.items() >= measured.items(), measured.items() - documented.items()
    others = {each.partition("_")[0] for each in documented.keys() - measured.keys()}
    assert others == ({"random", "channels"} if name == "explainability" else set()), "baselines that this run left out"


def test_the_metrics_of_two_dictionaries_are_listed(make_sae: Callable[..., SparseAutoencoder]) -> None:
    metrics, _ = dictionary_pair.compare(make_sae(n=24), make_sae(n=12, seed=1), seed=0)
    documented = documented_metrics(section(reference("dictionary"), "Metrics").partition("\n### ")[2])
    assert documented == {metric.name: (metric.unit, metric.direction) for metric in metrics}


@pytest.mark.parametrize("evaluator", [Ablation, Progressive, Shrinkage], ids=lambda evaluator: evaluator.name)
def test_settings_have_the_defaults_of_the_code(evaluator: type[Evaluator]) -> None:
    rows = table(section(reference(evaluator.name), "Settings"))
    assert {setting: int(cells[0]) for setting, cells in rows.items()} == evaluator.defaults


def protocol_numbers(name: str) -> dict[str, Any]:
    """All numbers of ``explain/<name>.toml``, its sections put together."""
    sections = [part for part in load_definition("explain", name).values() if isinstance(part, dict)]
    return {key: value for part in sections for key, value in part.items()}


def test_settings_of_explainability_are_those_of_its_definitions() -> None:
    rows = table(section(reference("explainability"), "Settings"))
    rows = {name: cells for name, cells in rows.items() if name not in ("definition", "baselines", "losses", "only")}
    ours, gao = (protocol_numbers(name) for name in ("n2g", "gao2024"))
    assert rows.keys() == ours.keys()
    for name, cells in rows.items():
        other = "" if gao[name] == ours[name] else f" (gao2024: {json.dumps(gao[name])})"
        assert cells[0].replace('`" _"`', '" _"') == json.dumps(ours[name]) + other


def test_settings_of_probe_loss_are_those_of_its_definitions() -> None:
    rows = table(section(reference("probe_loss"), "Settings"))
    protocol = read_protocol()
    best, sparse, dense = protocol.best, protocol.k_sparse, protocol.dense
    assert {name: cells[0] for name, cells in rows.items()} == {
        "tasks": best.examples.tasks,
        "most": str(best.examples.most),
        "shares": ", ".join(str(best.examples.shares[part]) for part in ("train", "validation", "test")),
        "most_tokens": str(best.text.most_tokens),
        "of": f"{best.values.of} (k-sparse: {sparse.values.of})",
        "pooling": best.values.pooling,
        "candidates": str(best.probe.candidates),
        "bootstrap": str(best.probe.bootstrap),
        "k": ", ".join(map(str, sparse.probe.k)),
        "directions": ", ".join(dense.probe.directions),
    }


def command_lines(page: Path) -> Iterator[list[str]]:
    """The words after ``saebench`` (or ``saebench.cli``) of every command line, in blocks and in the text."""
    lines = [*fenced_lines(page), *inline_code(page)]
    for line in (part for each in lines for part in each.split(" && ")):
        found = re.match(r"(?:\$ )?(?:torchrun .*saebench\.cli|saebench) (.*)", line)
        if found and re.match(r"[a-z]", found[1]):
            yield shlex.split(found[1], comments=True)


def children(command: Any) -> dict[str, Any]:
    """The commands of a group; typer brings its own click, whose classes cannot be named here."""
    return getattr(command, "commands", {})


def resolve(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words name, and what follows its name."""
    command: Any = typer.main.get_command(app)
    while children(command) and words and not words[0].startswith("-"):
        assert words[0] in children(command), f"saebench has no command {words[0]!r}: {' '.join(words)}"
        command, words = children(command)[words[0]], words[1:]
    return command, words


@each_page
def test_commands_and_their_options_exist(page: Path) -> None:
    for words in command_lines(page):
        command, rest = resolve(words)
        known = {option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]}
        given = {word.strip("[]") for word in rest if word.lstrip("[").startswith("-")}
        assert given <= known, f"{command.name} has no option {', '.join(given - known)}"


def test_every_command_is_documented() -> None:
    """And the check above sees commands: it would pass on pages in which it finds none."""
    found = {resolve(words)[0].name for page in PAGES for words in command_lines(page)}
    top = children(typer.main.get_command(app))
    assert {name for name, command in top.items() if not children(command)} <= found
    assert {each for command in top.values() for each in children(command)} <= found


@each_page
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+)(?=[a-z -]*:)", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    targets |= {"test-oldest"}
    for line in [*fenced_lines(page), *inline_code(page)]:
        if found := re.match(r"make ([a-z-]+)", line):
            assert found[1] in targets, f"the Makefile has no target {found[1]}"


def test_measured_numbers_of_the_readme_are_in_the_documentation() -> None:
    """The README's values with errors are copies; where a page is corrected, so is the README."""
    numbers = re.findall(r"\d[\d.]* ± [\d.]+", prose(ROOT / "README.md"))
    pages = "\n".join(page.read_text(encoding="utf-8") for page in PAGES if page.name != "README.md")
    assert numbers and all(number in pages for number in numbers)


def test_the_reference_tables_follow_from_the_boards_entries() -> None:
    """``python -m tests.reference_tables`` writes what stands there."""
    for path, text in reference_tables.pages().items():
        assert path.read_text() == text
