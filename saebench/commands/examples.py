"""`saebench examples`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from saebench.terminal import terminal

console = terminal()


def examples(
    checkpoint: Annotated[str, typer.Argument(help="Path or hub name.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the examples.")],
    model: Annotated[
        str | None, typer.Option(help="Language model: hub name, folder, GGUF file, smollm2, gemma3-270m.")
    ] = None,
    hook: Annotated[str | None, typer.Option(help="Where the autoencoder reads.")] = None,
    corpus: Annotated[str, typer.Option(help="Text; see `saebench evaluate`.")] = "python-docs",
    revision: Annotated[str | None, typer.Option(help="Pins a data set on the hub.")] = None,
    tokens: Annotated[int, typer.Option(help="Tokens of the corpus; 0 for all.")] = 100_000,
    context: Annotated[int | None, typer.Option(help="Length of a row; the checkpoint's by default, else 128.")] = None,
    batch: Annotated[int | None, typer.Option(help="Rows per batch; examples do not depend on it.")] = None,
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda.")] = None,
    top: Annotated[int | None, typer.Option(help="Strongest examples of each latent.")] = None,
    random: Annotated[int | None, typer.Option(help="Random examples of each latent, for quantiles.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random examples.")] = 0,
) -> None:
    """Collect activating examples of every latent, for explanations and the viewer."""
    from saebench.evaluation.run import prepare
    from saebench.evaluation.settings import TOKENS_PER_BATCH
    from saebench.explaining.examples.collecting import ExampleSettings, check_target, collect, write_examples
    from saebench.progress import Progress

    check_target(out)
    settings = ExampleSettings.defined(top=top, random=random, seed=seed)
    progress = Progress()
    sae, cut, text = prepare(
        checkpoint, progress, model=model, hook=hook, corpus=corpus, corpus_revision=revision, tokens=tokens,
        context=context, batch=batch, device=device, seed=seed,
    )  # fmt: skip
    found = collect(sae, cut, text, settings, batch or max(1, TOKENS_PER_BATCH // text.context), progress)
    written = write_examples(found, out)
    seen = int((written.table["count"] > 0).sum())
    console.print(Text(f"{seen:,} of {sae.n_latents:,} latents were active on {text.tokens_counted:,} tokens."))
    spent = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in found.seconds.items())
    console.print(Text(f"Time: {spent}"))
    console.print(Text(f"Examples: {out}"))
