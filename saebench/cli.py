"""The command line. Each command is a few lines that call the library; nothing is computed here."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from saebench.commands import leaderboard
from saebench.commands.audit import audit
from saebench.commands.compare import compare
from saebench.commands.dictionary import dictionary
from saebench.commands.examples import examples
from saebench.commands.explain import explain
from saebench.commands.export import export
from saebench.commands.studies import meta, scaling, stitch
from saebench.commands.tasks import tasks
from saebench.commands.threads import set_threads
from saebench.commands.training import sweep, train
from saebench.commands.view import view
from saebench.commands.workers import Address, Count, On, chosen_workers
from saebench.errors import SaebenchError
from saebench.terminal import terminal

if TYPE_CHECKING:
    from saebench.report.scorecard import Scorecard

app = typer.Typer(
    help="Evaluate sparse autoencoders on language-model activations.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
console = terminal()
INTERRUPTED = 130
"""Exit code after Ctrl-C."""


class Dtype(StrEnum):
    """Data type of the language model."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


class Bos(StrEnum):
    """Where BOS tokens are added."""

    row = "row"
    text = "text"
    none = "none"


@app.callback()
def every_command(
    threads: Annotated[int | None, typer.Option(envvar="SAEBENCH_THREADS", help="Threads of this process; by default one for each core that it may use. Give each of several processes its share.")] = None,
) -> None:  # fmt: skip
    """Evaluate sparse autoencoders on language-model activations."""
    set_threads(threads)


@app.command()
def evaluate(
    checkpoint: Annotated[list[str], typer.Argument(help="Checkpoints: paths or hub names. Several on one hook share one pass.")],
    model: Annotated[str | None, typer.Option(help="Language model: hub name, folder, GGUF file, smollm2, gemma3-270m.")] = None,
    hook: Annotated[str | None, typer.Option(help="Where the autoencoder reads, such as blocks.8.hook_resid_post.")] = None,
    hook_out: Annotated[str | None, typer.Option(help="Where it writes, for transcoders.")] = None,
    format: Annotated[str | None, typer.Option(help="For weights without a configuration: whose conventions hold, such as saelens or plain.")] = None,
    activation: Annotated[str | None, typer.Option(help="For weights without a configuration: relu, topk:32, batchtopk:0.5, jumprelu:0.5.")] = None,
    scale: Annotated[str | None, typer.Option(help="For weights without a configuration: factor of the input, or layer_norm.")] = None,
    corpus: Annotated[str, typer.Option(help="python-docs, a .txt, .jsonl or .parquet file, or a data set on the hub.")] = "python-docs",
    text: Annotated[Path | None, typer.Option(help="Exactly this text file, with one BOS at its start.")] = None,
    text_field: Annotated[str, typer.Option(help="The column of a data set that holds the text, token ids or messages.")] = "text",
    revision: Annotated[str | None, typer.Option(help="Pins a data set on the hub.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens of the corpus; 0 for all. With --text, all by default.")] = None,
    precision: Annotated[str | None, typer.Option(help="Evaluate, up to --tokens, until relative standard errors are this small: 2%, or kl_divergence=1%,normalised_mse=2%.")] = None,
    context: Annotated[int | None, typer.Option(help="Length of a row; the checkpoint's by default, else 128.")] = None,
    batch: Annotated[int | None, typer.Option(help="Rows per batch.")] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Data type of the language model; auto by default.")] = None,
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda; cuda:0,cuda:1 or all (every GPU) divides a large language model.")] = None,
    suite: Annotated[str | None, typer.Option(help="Pinned settings: quick, standard, full or saebench; they decide evaluators, tokens, controls and seed.")] = None,
    evaluators: Annotated[str | None, typer.Option(help="Names, separated by commas; see `saebench evaluators`. By default reconstruction,downstream.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="A setting of an evaluator, such as ablation.tokens=64; repeatable.")] = None,
    controls: Annotated[str, typer.Option(help="Also run the evaluators on controls: random, pca, reinitialised, or all.")] = "",
    seed: Annotated[int | None, typer.Option(help="Seed of everything random; 0 by default.")] = None,
    bos: Annotated[Bos | None, typer.Option(help="BOS at the start of each row, of the text, or none.")] = None,
    exclude: Annotated[bool, typer.Option(help="Exclude special tokens and first positions from all averages.")] = True,
    data_dir: Annotated[Path | None, typer.Option(help="Folder with the files of probing data sets; see `saebench tasks`.")] = None,
    tasks: Annotated[str | None, typer.Option(help="Probing tasks or sets of them, separated by commas; gao2024 by default.")] = None,
    scaling_law: Annotated[Path | None, typer.Option(help="TOML with a model family's losses, for relative compute.")] = None,
    out: Annotated[str, typer.Option(help="A .json file for one checkpoint, else a folder; with --on a folder or an address such as s3://bucket/results.")] = "saebench-results",
    report: Annotated[Path | None, typer.Option(help="Also write a page for the browser here.")] = None,
    all: Annotated[bool, typer.Option("--all", help="Every checkpoint within the folders given.")] = False,
    resume: Annotated[bool, typer.Option(help="Resume from an earlier result with the same settings.")] = False,
    on: On = None,
    workers: Count = None,
    address: Address = None,
) -> None:  # fmt: skip
    """Evaluate checkpoints: print the scorecard and write a result file."""
    from saebench.api import SomeRejected, evaluate, evaluate_on
    from saebench.checkpoints.collection import expand
    from saebench.evaluation.controls import CONTROLS
    from saebench.evaluators.base import DEFAULT_EVALUATORS
    from saebench.evaluators.options import parse_options
    from saebench.files import check_writable
    from saebench.parsing import names_in
    from saebench.suites import read_suite

    if report is not None:
        check_writable(report)
    running = read_suite(suite).settings["evaluators"] if suite else DEFAULT_EVALUATORS
    names = names_in(evaluators or "") or None
    given = {"downstream.scaling_law": scaling_law, "probe_loss.tasks": tasks}
    shortcuts = [f"{name}={json.dumps(str(value))}" for name, value in given.items() if value is not None]
    settings = {
        "model": model, "hook": hook, "hook_out": hook_out, "format": format, "activation": activation, "scale": scale,
        "corpus": str(text) if text else corpus, "corpus_revision": revision, "text_field": text_field,
        "tokens": 0 if text and tokens is None and not suite else tokens, "context": context, "batch": batch, "precision": precision,
        "dtype": dtype and dtype.value, "device": device, "evaluators": names, "seed": seed, "exclude": exclude,
        "data_dir": data_dir, "bos": bos.value if bos else "text" if text else None,
        "options": parse_options([*(option or []), *shortcuts], names or running),
        "controls": list(CONTROLS) if controls == "all" else names_in(controls) or None,
    }  # fmt: skip
    chosen = {name: value for name, value in settings.items() if value is not None}
    distributed = chosen_workers(on, workers, address)
    given_saes = expand(checkpoint, inside=all)
    run = partial(evaluate, given_saes) if distributed is None else partial(evaluate_on, given_saes, distributed)
    rejected = ""
    try:
        cards = run(suite=suite, out=out, resume=resume, **chosen)
    except SomeRejected as error:
        cards, rejected = error.cards, str(error)
    _show_evaluated(cards, rejected, out, report)


def _show_evaluated(cards: list[Scorecard], rejected: str, out: str, report: Path | None) -> None:
    """Scorecards, where the files are, and exit code 1 where a checkpoint or an evaluator failed."""
    from saebench.report import render_terminal, write_page

    for card in cards:
        console.print(render_terminal(card.result))
    console.print(Text(f"Results: {out}"))
    if report is not None:
        write_page([card.result for card in cards], report)
        console.print(Text(f"Report: {report}"))
    if rejected:
        terminal(stderr=True).print(Text(f"Error: {rejected}", style="red"))
    if rejected or any(card.result.failures for card in cards):
        raise typer.Exit(1)


@app.command()
def evaluators() -> None:
    """List the evaluators that are installed, plug-ins included."""
    from saebench.evaluators.base import installed_evaluators

    table = Table("Evaluator", "Version", "What it measures", "From", show_edge=False)
    for name, evaluator in installed_evaluators().items():
        table.add_row(name, str(evaluator.version), evaluator.description, evaluator.__module__.partition(".")[0])
    console.print(table)


@app.command()
def inspect(
    checkpoint: Annotated[str, typer.Argument(help="Path or hub name.")],
    model: Annotated[str | None, typer.Option(help="Its language model, where it does not say.")] = None,
    hook: Annotated[str | None, typer.Option(help="Where it reads, where it does not say.")] = None,
    format: Annotated[str | None, typer.Option(help="For weights without a configuration: whose conventions hold, such as saelens or plain.")] = None,
    activation: Annotated[str | None, typer.Option(help="For weights without a configuration: relu, topk:32, batchtopk:0.5, jumprelu:0.5.")] = None,
    scale: Annotated[str | None, typer.Option(help="For weights without a configuration: factor of the input, or layer_norm.")] = None,
) -> None:  # fmt: skip
    """Describe a checkpoint, without loading its weights where the format allows."""
    from dataclasses import asdict

    from saebench import checkpoints
    from saebench.checkpoints.collection import Collection

    several = Collection.open(checkpoint)
    if several is not None:
        console.print(several.table())
        return
    info = checkpoints.inspect(checkpoint, format=format, activation=activation, scale=scale).with_places(model, hook)
    table = Table.grid(padding=(0, 2))
    for name, value in asdict(info).items():
        if value not in (None, {}, "", ()):
            shown = json.dumps(value) if isinstance(value, dict) else str(value)
            table.add_row(Text(name, style="dim"), Text(shown if len(shown) < 400 else f"{shown[:400]}..."))
    console.print(table)


@app.command()
def convert(
    checkpoint: Annotated[str, typer.Argument(help="Path or hub name.")],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    format: Annotated[str, typer.Option(help="saebench or saelens.")] = "saebench",
    model: Annotated[str | None, typer.Option(help="Its language model, where the checkpoint does not say.")] = None,
    hook: Annotated[str | None, typer.Option(help="Where it reads, where the checkpoint does not say.")] = None,
    activation: Annotated[str | None, typer.Option(help="For weights without a configuration: as for evaluate.")] = None,
    scale: Annotated[str | None, typer.Option(help="For weights without a configuration: as for evaluate.")] = None,
) -> None:
    """Write a checkpoint in another format."""
    from dataclasses import replace

    from saebench import checkpoints
    from saebench.checkpoints.convert import convert as write

    sae = checkpoints.load_one(checkpoint, activation=activation, scale=scale)
    write(replace(sae, info=sae.info.with_places(model, hook)), out, format)
    console.print(Text(f"Written: {out}"))


@app.command()
def validate(file: Annotated[Path, typer.Argument(help="A result file.")]) -> None:
    """Check a result file against the schema."""
    from saebench import results

    problems = results.validate(file)
    for problem in problems:
        console.print(Text(problem))
    if problems:
        raise typer.Exit(2)
    console.print(Text(f"{file} is a valid result file."))


@app.command()
def report(
    files: Annotated[list[Path], typer.Argument(help="Result files.")],
    html: Annotated[Path | None, typer.Option(help="Write a page for the browser here.")] = None,
    markdown: Annotated[bool, typer.Option(help="Print Markdown instead of a table.")] = False,
) -> None:
    """Show result files as tables, or write a page."""
    from saebench.report import render_markdown, render_terminal, write_page
    from saebench.results import read_result

    found = [read_result(file) for file in files]
    if html is not None:
        write_page(found, html)
        console.print(Text(f"Report: {html}"))
        return
    for result in found:
        if markdown:
            typer.echo(render_markdown(result))
        else:
            console.print(render_terminal(result))


app.command()(dictionary)
app.command()(compare)
app.add_typer(leaderboard.app, name="leaderboard")
app.command()(train)
app.command()(sweep)
app.command()(examples)
app.command()(explain)
app.add_typer(tasks, name="tasks")
app.command()(view)
app.command()(stitch)
app.command()(meta)
app.command()(scaling)
app.add_typer(audit, name="audit")
app.command()(export)


def main() -> None:
    """Run the command line: errors of the user are one sentence and exit code 2; Ctrl-C keeps finished results."""
    try:
        app()
    except SaebenchError as error:
        terminal(stderr=True).print(Text(f"Error: {error}", style="red"))
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            terminal(stderr=True).print("Stopped. Finished results are kept: repeat the command with --resume to continue.")
        raise


if __name__ == "__main__":
    main()
