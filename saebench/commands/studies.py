"""`saebench stitch`, `saebench meta` and `saebench scaling`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from saebench.terminal import terminal

console = terminal()


def stitch(
    small: Annotated[str, typer.Argument(help="The smaller checkpoint: path or hub name.")],
    large: Annotated[str, typer.Argument(help="The larger one, on the same hook.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for stitching.json, stitching.html and latents.parquet.")],
    model: Annotated[
        str | None, typer.Option(help="Language model: hub name, folder, GGUF file, smollm2, gemma3-270m.")
    ] = None,
    hook: Annotated[str | None, typer.Option(help="Where the autoencoders read.")] = None,
    corpus: Annotated[str, typer.Option(help="Text; see `saebench evaluate`.")] = "python-docs",
    revision: Annotated[str | None, typer.Option(help="Pins a data set on the hub.")] = None,
    tokens: Annotated[int, typer.Option(help="Tokens of the corpus; 0 for all.")] = 32_768,
    context: Annotated[int | None, typer.Option(help="Length of a row; the checkpoint's by default, else 128.")] = None,
    batch: Annotated[int | None, typer.Option(help="Rows per batch; results do not depend on it.")] = None,
    device: Annotated[
        str | None,
        typer.Option(help="Such as cpu or cuda; cuda:0,cuda:1 or all (every GPU) divides a large language model."),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Decoder cosine above which a latent is not novel; the paper's 0.7.")
    ] = None,
    points: Annotated[int, typer.Option(help="Steps at which error and L0 are measured.")] = 129,
    stops: Annotated[int, typer.Option(help="Steps at which the model's loss is measured.")] = 7,
) -> None:
    """Stitch a smaller autoencoder to a larger one: which latents are new, and their effect on the error (Leask et al.)."""
    from saebench.files import check_writable
    from saebench.progress import Progress
    from saebench.studies.stitching.figures import stitching_figures
    from saebench.studies.stitching.report import stitching_result
    from saebench.studies.stitching.run import stitch as run
    from saebench.studies.study import check_study, study_table, write_parquet, write_study

    check_study(out, "stitching")
    check_writable(out / "latents.parquet")
    study = run(
        small, large, threshold=threshold, points=points, stops=stops, progress=Progress(), model=model, hook=hook,
        corpus=corpus, corpus_revision=revision, tokens=tokens, context=context, batch=batch, device=device,
    )  # fmt: skip
    result = stitching_result(study)
    console.print(study_table(result))
    write_parquet(study.latents(), out / "latents.parquet")
    _, page = write_study(result, stitching_figures(study, result), out)
    console.print(Text(f"Report: {page}"))


def meta(
    checkpoint: Annotated[str, typer.Argument(help="Path or hub name.")],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder for meta.json, meta.html, decomposition.parquet and the meta-autoencoder."),
    ],
    latents: Annotated[int, typer.Option(help="Meta-latents; by default the paper's proportion, one for 21 latents.")] = 0,
    active: Annotated[int, typer.Option(help="Mean number active per latent; the paper's 4 by default.")] = 0,
    steps: Annotated[int, typer.Option(help="Steps of training.")] = 1000,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 3e-3,
    against: Annotated[str | None, typer.Option(help="A smaller autoencoder to compare the meta-latents with.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of training and of the controls.")] = 0,
) -> None:
    """Train a meta-autoencoder on the decoder directions, with two controls (Leask et al.)."""
    from saebench.checkpoints import save_native
    from saebench.files import check_writable
    from saebench.progress import Progress
    from saebench.studies.meta.report import meta_figures, meta_result
    from saebench.studies.meta.run import MetaSettings, meta_study
    from saebench.studies.study import check_study, study_table, write_parquet, write_study

    check_study(out, "meta")
    check_writable(out / "decomposition.parquet")
    study = meta_study(checkpoint, MetaSettings(latents, active, steps, lr, seed), against=against, progress=Progress())
    result = meta_result(study)
    console.print(study_table(result))
    save_native(study.real.sae, out / "sae", {"meta_of": result.saes[0].origin, "settings": result.settings})
    write_parquet(study.decomposition(), out / "decomposition.parquet")
    _, page = write_study(result, meta_figures(study, result), out)
    console.print(Text(f"Report: {page}"))


def scaling(
    paths: Annotated[
        list[Path],
        typer.Argument(help="Result files, checkpoints of `saebench train`, or folders of them, such as a sweep's."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for scaling.json and scaling.html.")],
    metric: Annotated[str, typer.Option(help="Metric of result files: evaluator.name.")] = "reconstruction.normalised_mse",
    arch: Annotated[str | None, typer.Option(help="The architecture, where there are several.")] = None,
    fit: Annotated[
        str, typer.Option(help="size, joint, compute, rate, separated by commas; all that the data allow by default.")
    ] = "",
    bootstraps: Annotated[int, typer.Option(help="Refits behind each interval.")] = 400,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
) -> None:
    """Fit scaling laws to trained or evaluated autoencoders (Gao et al. section 3)."""
    from saebench.parsing import names_in
    from saebench.studies.scaling.report import scaling_figures, scaling_result
    from saebench.studies.scaling.run import scaling_study
    from saebench.studies.study import check_study, study_table, write_study

    check_study(out, "scaling")
    fits = names_in(fit)
    study = scaling_study(paths, metric=metric, arch=arch, fits=fits, bootstraps=bootstraps, seed=seed)
    result = scaling_result(study)
    console.print(study_table(result))
    for name, reason in study.refused.items():
        console.print(Text(f"Not fitted, {name}: {reason}"))
    _, page = write_study(result, scaling_figures(study, result), out)
    console.print(Text(f"Report: {page}"))
