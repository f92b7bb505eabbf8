"""`saebench train` and `saebench sweep`."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from saebench.commands.workers import Address, Count, On, chosen_workers, end_with_rejected
from saebench.errors import SaebenchError
from saebench.terminal import terminal

if TYPE_CHECKING:
    from saebench.distributed.workers import Workers

console = terminal()
PAGE = "training.html"
SWEEP = ("grid", "member")
"""The keys that make a recipe a sweep; for one autoencoder only its common settings are used."""


def train(
    recipe: Annotated[
        str | None, typer.Option(help="A TOML file, or a built-in recipe's name; of a sweep, its common settings.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint.")] = Path("saebench-runs/sae"),
    arch: Annotated[
        str | None, typer.Option(help="topk, multitopk, batchtopk, matryoshka, jumprelu, relu, gated, prolu.")
    ] = None,
    n: Annotated[int | None, typer.Option(help="Number of latents.")] = None,
    k: Annotated[int | None, typer.Option(help="Active latents per token.")] = None,
    model: Annotated[str | None, typer.Option(help="Language model.")] = None,
    hook: Annotated[str | None, typer.Option(help="Where its activations are taken.")] = None,
    corpus: Annotated[str | None, typer.Option(help="Text; see `saebench evaluate`.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens to train on.")] = None,
    batch: Annotated[int | None, typer.Option(help="Tokens per step.")] = None,
    context: Annotated[int | None, typer.Option(help="Length of a row.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate; by default it falls as 1/sqrt(n).")] = None,
    sparsity: Annotated[float | None, typer.Option(help="Coefficient of the sparsity penalty.")] = None,
    target_l0: Annotated[float | None, typer.Option(help="Adapt the penalty to reach this L0.")] = None,
    freeze: Annotated[
        str | None, typer.Option(help="Train a control whose decoder, soft-decoder or encoder stays random.")
    ] = None,
    cone: Annotated[float | None, typer.Option(help="Of a soft-decoder: smallest cosine with its start (0.8).")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of initialisation and order.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Cache folder of activations, for further runs.")] = None,
    resume: Annotated[bool, typer.Option(help="Resume from the last checkpoint in the folder.")] = False,
    shards: Annotated[int, typer.Option(min=1, help="Slices of the latents, one for each process of torchrun.")] = 1,
) -> None:
    """Train an autoencoder and save it in saebench's format."""
    from saebench.training.config import make_config, read_recipe

    given = {"arch": arch, "n": n, "k": k, "model": model, "hook": hook, "corpus": corpus, "tokens": tokens, "batch": batch,
             "context": context, "lr": lr, "sparsity": sparsity, "target_l0": target_l0, "seed": seed,
             "freeze": freeze, "cone": cone}  # fmt: skip
    settings = read_recipe(recipe) if recipe else {}
    settings = {name: value for name, value in settings.items() if name not in SWEEP}
    config = make_config(settings | {name: value for name, value in given.items() if value is not None})
    _run([config], [out], out / PAGE, cache, resume, shards)


def sweep(
    file: Annotated[
        str, typer.Argument(help="A TOML file with [[member]] tables or a [grid], or a built-in recipe's name.")
    ],
    out: Annotated[Path, typer.Option(help="Folder; each member gets one below it.")] = Path("saebench-runs"),
    cache: Annotated[Path | None, typer.Option(help="Cache folder of activations, for further runs.")] = None,
    resume: Annotated[bool, typer.Option(help="Resume: finished members are left, others continue.")] = False,
    shards: Annotated[int, typer.Option(min=1, help="Slices of the latents, one for each process of torchrun.")] = 1,
    together: Annotated[
        int | None,
        typer.Option(
            min=1, help="Members trained together; by default all of the same batch, tokens and seed, with --on one."
        ),
    ] = None,
    corpus: Annotated[str | None, typer.Option(help="Another text than the recipe's.")] = None,
    corpus_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of the text that are used, in several epochs where more are trained on."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Members that train, by name or pattern ('*-k32'); may be repeated.")
    ] = None,
    on: On = None,
    workers: Count = None,
    address: Address = None,
) -> None:
    """Train many autoencoders on one stream of activations; with --on, members train at the same time."""
    from saebench.training.config import read_sweep

    distributed = chosen_workers(on, workers, address)
    if distributed is not None and shards > 1:
        raise SaebenchError("--shards divides each member among the processes of torchrun: use it without --on.")
    changes: dict[str, Any] = {} if corpus is None else {"corpus": corpus, "corpus_revision": ""}
    configs, names = read_sweep(file, changes | ({} if corpus_tokens is None else {"corpus_tokens": corpus_tokens}))
    if only:
        chosen = _chosen(names, only)
        configs, names = [configs[each] for each in chosen], [names[each] for each in chosen]
    _run(configs, [out / name for name in names], out / PAGE, cache, resume, shards, together, Path(file).stem, distributed)


def _chosen(names: list[str], patterns: list[str]) -> list[int]:
    """Numbers of the members whose names match one of the patterns."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise SaebenchError(f"No member of the sweep is named {pattern!r}; there are: {', '.join(names)}.")
    return [number for number, name in enumerate(names) if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _run(
    configs: list[Any],
    folders: list[Path],
    page: Path,
    cache: Path | None,
    resume: bool,
    shards: int = 1,
    together: int | None = None,
    recipe: str = "",
    workers: Workers | None = None,
) -> None:
    from saebench.progress import Progress
    from saebench.training.mesh import join_mesh
    from saebench.training.run import groups
    from saebench.training.run import train as run
    from saebench.training.saving import is_finished

    _check(configs, folders, resume)
    mesh = join_mesh(shards)
    console.quiet = not mesh.writes
    _show(configs, folders)
    progress = Progress(shown=mesh.writes)
    left = [number for number, config in enumerate(configs) if not (resume and is_finished(config, folders[number]))]
    units = groups(configs, left, together if workers is None else together or 1)
    if workers is not None:
        from saebench.distributed.sweep import check_memory, sweep_on

        check_memory(configs, units, workers)
    source = _stream(configs[0], cache, progress, mesh, workers is not None)
    epochs = configs[0].steps * configs[0].batch / source.tokens
    console.print(Text(f"{source.tokens:,} tokens of activations: {epochs:.1f} epochs"))
    rejected: dict[int, str] = {}
    if workers is not None and cache is not None:
        del source  # with the language model: workers read the cache alone
        rejected = sweep_on(configs, folders, units, cache, workers, progress)
    else:
        for members in units:
            run([configs[each] for each in members], source, [folders[each] for each in members], resume, progress, mesh)
    if mesh.writes:
        _conclude([folder for number, folder in enumerate(folders) if number not in rejected], page, recipe)
    mesh.leave()
    if rejected:
        end_with_rejected(rejected, len(configs), "members could not be trained")


def _check(configs: list[Any], folders: list[Path], resume: bool) -> None:
    """Whether the members can share a stream, and whether their folders can be written to."""
    from saebench.files import check_writable
    from saebench.training.saving import check_unused

    for folder in folders:
        check_writable(folder / "sae.json")
        if not resume:
            check_unused(folder)
    common = ("model", "hook", "corpus", "corpus_revision", "corpus_tokens", "corpus_skip", "context", "stored")
    places = {tuple(getattr(each, name) for name in common) for each in configs}
    if len(places) > 1:
        raise SaebenchError("The members of a sweep share one stream: model, hook, text and context must be the same.")


def _conclude(folders: list[Path], page: Path, recipe: str) -> None:
    """Write the page, and of a sweep the manifest, of what was trained, and print a summary."""
    from saebench.report.training import write_training_page
    from saebench.training.manifest import write_manifest
    from saebench.training.saving import training_record

    if not folders:
        return
    trained = [training_record(folder) for folder in folders]
    records = {folder.name: record for folder, record in zip(folders, trained, strict=True)}
    write_training_page(records, page)
    if recipe:
        console.print(Text(f"Manifest: {write_manifest(page.parent, recipe, records)}"))
    _summary(folders, trained)


def _summary(folders: list[Path], trained: list[dict[str, Any]]) -> None:
    table = Table("Checkpoint", "Normalised MSE", "L0", "Dead", show_edge=False)
    for folder, record in zip(folders, trained, strict=True):
        final = record["final"]
        table.add_row(str(folder), f"{final['normalised_mse']:.4f}", f"{final['l0']:.1f}", f"{final['dead_share']:.2%}")
        aim = record.get("target_l0")
        if aim and not aim["within_5_percent"]:
            console.print(Text(f"{folder}: L0 is {aim['reached']:.1f}, not within 5 % of {aim['wanted']:g}."))
    console.print(table)


def _stream(config: Any, cache: Path | None, progress: Any, mesh: Any, workers: bool) -> Any:
    """The activations; several processes read them from a cache, which ranks fill together, and for workers this process."""
    from saebench.training.sources import CachedSource, open_source

    alone = mesh.shards * mesh.replicas == 1 and not workers
    if cache is None and not alone:
        raise SaebenchError("Several processes share their activations through a cache: give its folder with --cache.")
    if not mesh.writes:
        mesh.barrier()  # the first process initialises the cache
    source = open_source(config, cache, progress)
    if mesh.writes:
        mesh.barrier()
    if isinstance(source, CachedSource) and not alone:
        source.fill(mesh.replica * mesh.shards + mesh.shard, mesh.replicas * mesh.shards)
        mesh.barrier()
    return source


def _show(configs: list[Any], folders: list[Path]) -> None:
    """The resolved configuration: the common settings, and those in which a sweep's members differ."""
    records = [config.record() for config in configs]
    differing = [name for name in records[0] if len({str(record[name]) for record in records}) > 1]
    common = Table("Setting", "Value", show_edge=False)
    for name, value in records[0].items():
        if name not in differing:
            common.add_row(name, str(value))
    console.print(common)
    if differing:
        members = Table("Member", *differing, show_edge=False)
        for folder, record in zip(folders, records, strict=True):
            members.add_row(folder.name, *(str(record[name]) for name in differing))
        console.print(members)
