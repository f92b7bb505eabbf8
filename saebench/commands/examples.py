"""`saebench examples`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from saebench.commands.workers import Address, Count, On, chosen_workers, end_with_rejected
from saebench.terminal import terminal

console = terminal()


def examples(
    checkpoint: Annotated[list[str], typer.Argument(help="Checkpoints: paths or hub names.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the examples; of several checkpoints, each gets one below it.")
    ],
    model: Annotated[
        str | None, typer.Option(help="Language model: hub name, folder, GGUF file, smollm2, gemma3-270m.")
    ] = None,
    hook: Annotated[str | None, typer.Option(help="Where the autoencoder reads.")] = None,
    corpus: Annotated[str, typer.Option(help="Text; see `saebench evaluate`.")] = "python-docs",
    revision: Annotated[str | None, typer.Option(help="Pins a data set on the hub.")] = None,
    tokens: Annotated[int, typer.Option(help="Tokens of the corpus; 0 for all.")] = 100_000,
    context: Annotated[int | None, typer.Option(help="Length of a row; the checkpoint's by default, else 128.")] = None,
    batch: Annotated[int | None, typer.Option(help="Rows per batch; examples do not depend on it.")] = None,
    device: Annotated[
        str | None,
        typer.Option(help="Such as cpu or cuda; cuda:0,cuda:1 or all (every GPU) divides a large language model."),
    ] = None,
    top: Annotated[int | None, typer.Option(help="Strongest examples of each latent.")] = None,
    random: Annotated[int | None, typer.Option(help="Random examples of each latent, for quantiles.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random examples.")] = 0,
    all: Annotated[bool, typer.Option("--all", help="Every checkpoint within the folders given.")] = False,
    resume: Annotated[bool, typer.Option(help="Leave examples that were collected with the same settings.")] = False,
    on: On = None,
    workers: Count = None,
    address: Address = None,
) -> None:
    """Collect activating examples of every latent, for explanations and the viewer."""
    from saebench.api import unique_names
    from saebench.checkpoints.collection import expand
    from saebench.distributed.examples import ExamplesJob, collect_examples
    from saebench.explaining.examples.collecting import ExampleSettings, check_target
    from saebench.progress import Progress

    distributed = chosen_workers(on, workers, address)
    checkpoints = expand(checkpoint, inside=all)
    folders = [out / name for name in unique_names(checkpoints)] if all or len(checkpoints) > 1 else [out]
    for folder in folders:
        check_target(folder)
    settings = {
        "model": model, "hook": hook, "corpus": corpus, "corpus_revision": revision, "tokens": tokens, "context": context,
        "batch": batch, "device": device, "seed": seed,
    }  # fmt: skip
    kept = ExampleSettings.defined(top=top, random=random, seed=seed)
    job = ExamplesJob(tuple(checkpoints), tuple(folders), kept, settings, resume)
    found, rejected = collect_examples(job, distributed, Progress())
    for number, written in sorted(found.items()):
        console.print(Text(f"{written.active:,} of {written.latents:,} latents were active on {written.tokens:,} tokens."))
        spent = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in written.seconds.items())
        console.print(Text(f"Time: {spent}"))
        console.print(Text(f"Examples: {folders[number]}"))
    if rejected:
        end_with_rejected(rejected, len(checkpoints), "checkpoints have no examples")
