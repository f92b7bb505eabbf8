"""`saebench tasks` and `saebench tasks show NAME`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from saebench.terminal import terminal

tasks = typer.Typer(help="List the probing tasks, or show examples of one.", rich_markup_mode=None)
console = terminal()

DataDir = Annotated[Path | None, typer.Option(help="Folder with the files of data sets, and own tasks in tasks/*.toml.")]
SHOWN = 300


@tasks.callback(invoke_without_command=True)
def list_tasks(
    context: typer.Context,
    data_dir: DataDir = None,
    suite: Annotated[
        str, typer.Option("--set", help="gao2024, sae-probes, saebench or all; or names, separated by commas.")
    ] = "all",
) -> None:
    """List the probing tasks, and where the data of each are available."""
    if context.invoked_subcommand is not None:
        return
    from saebench.tasks import availability, find_tasks

    found = find_tasks(suite, data_dir)
    table = Table(show_edge=False)
    table.add_column("Task", no_wrap=True)
    table.add_column("Classes")
    table.add_column("Data", no_wrap=True)
    missing = 0
    for task in found:
        here = [source for source, reason in availability(task, data_dir).items() if not reason]
        missing += not here
        shown = Text(", ".join(here)) if here else Text("missing", style="red")
        table.add_row(Text(task.name), Text(task.title), shown)
    console.print(table)
    console.print(Text(f"{len(found)} tasks, {len(found) - missing} with data, {missing} without."))


@tasks.command()
def show(name: Annotated[str, typer.Argument(help="A task.")], data_dir: DataDir = None) -> None:
    """Describe a task, and print two examples of each label."""
    from saebench.probing.protocol import read_protocol
    from saebench.tasks import load_task, read_task

    task = read_task(name, data_dir)
    examples = read_protocol().best.examples
    data = load_task(task, examples.shares, examples.most, 0, data_dir)
    head = Table.grid(padding=(0, 2))
    record = data.record
    facts = {
        "task": f"{task.name}, version {task.version}", "classes": task.title, "sets": ", ".join(task.sets),
        "licence": task.licence, "citation": task.citation, "source": record["source"],
        "not used": "; ".join(record["tried_before"]),
        "examples": f"{record['examples']:,} from {record['rows']:,} rows; removed: {record['exact_duplicates']} duplicates, "
        f"{record['near_duplicates']} near duplicates, {record['conflicting_labels']} with both labels",
        "used": ", ".join(f"{count} {part}" for part, count in record["used"].items()),
    }  # fmt: skip
    for key, value in facts.items():
        if value:
            head.add_row(Text(key, style="dim"), Text(value))
    console.print(head)
    for label in (1, 0):
        for example in [each for each in data.parts["train"] if each.label == label][:2]:
            text = example.text if len(example.text) <= SHOWN else f"... {example.text[-SHOWN:]}"
            console.print(Text(f"\nlabel {label}", style="bold"))
            console.print(Text(text))
