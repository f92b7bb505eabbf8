"""Arguments and options that several commands have: each is described once."""
# fmt: off

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Checkpoint = Annotated[str, typer.Argument(help="Path or hub name.")]
Everything = Annotated[bool, typer.Option("--all", help="Every checkpoint within the folders given.")]

Model = Annotated[str | None, typer.Option(help="Language model: hub name, folder, GGUF file, smollm2, gemma3-270m; by default the checkpoint's.")]
Hook = Annotated[str | None, typer.Option(help="Where the autoencoder reads, such as blocks.8.hook_resid_post; by default the checkpoint's.")]
Device = Annotated[str | None, typer.Option(help="Such as cpu or cuda; cuda:0,cuda:1 or all (every GPU) divides a large language model.")]
Batch = Annotated[int | None, typer.Option(help="Rows per batch; results do not depend on it beyond rounding.")]

Convention = Annotated[str | None, typer.Option(help="For weights without a configuration: whose conventions hold, such as saelens or plain.")]
Activation = Annotated[str | None, typer.Option(help="For weights without a configuration: relu, topk:32, batchtopk:0.5, jumprelu:0.5.")]
Scale = Annotated[str | None, typer.Option(help="For weights without a configuration: factor of the input, or layer_norm.")]

Corpus = Annotated[str, typer.Option(help="python-docs, a .txt, .jsonl or .parquet file, or a data set on the hub.")]
Revision = Annotated[str | None, typer.Option(help="Commit or branch of a data set on the hub, to pin it.")]
Tokens = Annotated[int, typer.Option(help="Tokens of the corpus; 0 for all.")]
Context = Annotated[int | None, typer.Option(help="Length of a row; the checkpoint's by default, else 128.")]
DataDir = Annotated[Path | None, typer.Option(help="Folder with the files of probing data sets; see `saebench tasks`.")]
