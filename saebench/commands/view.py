"""`saebench view`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from saebench.errors import SaebenchError
from saebench.terminal import terminal

if TYPE_CHECKING:
    from saebench.viewer.server import ViewerServer

console = terminal()


def view(
    checkpoint: Annotated[str, typer.Argument(help="Path or hub name.")],
    examples: Annotated[Path | None, typer.Option(help="Folder that `saebench examples` wrote.")] = None,
    result: Annotated[Path | None, typer.Option(help="Result file with tries or explanations of latents.")] = None,
    meta: Annotated[
        Path | None, typer.Option(help="Folder that `saebench meta` wrote, for the meta-latents of latents.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Language model: hub name, folder, GGUF file, smollm2, gemma3-270m.")
    ] = None,
    hook: Annotated[str | None, typer.Option(help="Where the autoencoder reads.")] = None,
    live: Annotated[bool, typer.Option(help="Load the language model, for text search and the logit lens.")] = True,
    device: Annotated[
        str | None,
        typer.Option(help="Such as cpu or cuda; cuda:0,cuda:1 or all (every GPU) divides a large language model."),
    ] = None,
    static: Annotated[Path | None, typer.Option(help="Write the pages to this folder instead of serving them.")] = None,
    host: Annotated[str, typer.Option(help="Address to serve at; only this machine can reach the default.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 for any free one.")] = 8765,
) -> None:
    """Browse latents in the browser."""
    from saebench.progress import Progress
    from saebench.viewer.opening import open_viewer
    from saebench.viewer.static import check_static_target, write_static

    if static is not None:
        check_static_target(static)
    else:
        serve = _server()
    content, loading = open_viewer(
        checkpoint, examples=examples, result=result, meta=meta, model=model, hook=hook, live=live, device=device,
        brief=static is not None,
    )  # fmt: skip
    if static is not None:
        files = write_static(content, loading, static, Progress())
        console.print(Text(f"{files:,} files; open {static / 'index.html'}"))
        return
    with serve(content, loading, host, port) as server:
        console.print(Text(f"{content.n_latents:,} latents at {server.address} (stop with Ctrl-C)"))
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            console.print(Text("Stopped."))


def _server() -> Callable[..., ViewerServer]:
    """``serve``, found before anything is loaded."""
    try:
        from saebench.viewer.server import serve
    except ImportError as error:
        raise SaebenchError(
            f"The viewer's server needs {error.name}: run `pip install 'saebench[view]'`, or write pages with --static."
        ) from error
    return serve
