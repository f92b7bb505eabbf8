"""The numbers and figures of a meta-autoencoder study."""

from __future__ import annotations

from dataclasses import asdict
from itertools import pairwise

import numpy as np
import torch

from saebench.provenance import portable_name, sae_record
from saebench.report.figures import Figure
from saebench.results import Metric
from saebench.results.metrics import metric
from saebench.studies.meta.run import DEFINITION, Explained, MetaStudy, part_shares, shared_by
from saebench.studies.plots import axes, bars
from saebench.studies.study import StudyResult, make_study, paper_settings

QUESTION = "Are the latents units of their own, or sparse sums of directions that many latents share?"
MOST_META_LATENTS = 200
NAMES = {"real": "decoder directions", "random": "random directions", "shuffled": "shuffled coordinates"}


def meta_result(study: MetaStudy) -> StudyResult:
    """All metrics; ``details.meta_latents`` says which latents share each meta-latent."""
    every = _every(study)
    uses = {name: _uses(each) for name, each in every.items()}
    details = {
        "variance_explained": {name: list(each.variance) for name, each in every.items()},
        "published_variance_explained": paper_settings(DEFINITION)["meta"]["published_variance_explained"],
        "parts_per_latent": torch.bincount(study.real.code.l0()).tolist(),
        "latents_per_meta_latent": uses["real"].tolist(),
        "meta_latents": [
            {"meta_latent": meta, "latents": int(uses["real"][meta]), "most": latents}
            for meta, latents in shared_by(study.real.code, study.kept)[:MOST_META_LATENTS]
        ],
    }
    settings = asdict(study.settings) | {"latents_of_length_0": study.sae.n_latents - study.kept.numel()}
    return make_study(
        "meta",
        QUESTION,
        [*_variances(study), *_sharing(study), *_similarity(study)],
        details=details,
        settings=settings,
        definition=DEFINITION,
        saes=[sae_record(study.sae, None)],
    )


def _every(study: MetaStudy) -> dict[str, Explained]:
    return {"real": study.real, **study.controls}


def _uses(explained: Explained) -> torch.Tensor:
    """``[meta-latents]``: how many latents each is part of."""
    return torch.bincount(explained.code.indices[explained.code.active], minlength=explained.code.n_latents)


def _variances(study: MetaStudy) -> list[Metric]:
    n = study.kept.numel()
    suffix = {"real": "", "random": "_random", "shuffled": "_shuffled"}
    return [
        found
        for name, each in _every(study).items()
        for found in (
            metric(
                f"variance_explained{suffix[name]}", each.variance, unit="1", direction="none", n=n, n_unit="latents",
                reason="the directions are all the same",
                description=f"Of the {NAMES[name]} by {study.settings.n} meta-latents",
            ),
            metric(
                f"active_meta_latents{suffix[name]}", each.l0, unit="meta-latents", direction="none", n=n, n_unit="latents",
                description=f"Mean number active on the {NAMES[name]}",
            ),
        )
    ]  # fmt: skip


def _sharing(study: MetaStudy) -> list[Metric]:
    uses = _uses(study.real)
    return [
        metric("dead_meta_latents", float((uses == 0).double().mean()), unit="share of meta-latents", direction="lower",
               n=uses.numel(), n_unit="meta-latents", description="Part of no latent"),
        metric("latents_per_meta_latent", float(uses.double().median()), unit="latents", direction="none", n=uses.numel(),
               n_unit="meta-latents", description="Median number of latents that share a meta-latent"),
    ]  # fmt: skip


def _similarity(study: MetaStudy) -> list[Metric]:
    if study.against is None:
        return []
    origin, real, random = study.against
    words = f"Mean over directions of the largest cosine with {portable_name(origin)}:"
    return [
        metric("cosine_with_smaller", real, unit="cosine", direction="none", n=study.settings.n, n_unit="meta-latents",
               description=f"{words} meta-latents"),
        metric("cosine_with_smaller_random", random, unit="cosine", direction="none", n=study.settings.n,
               n_unit="directions", description=f"{words} random directions"),
    ]  # fmt: skip


def meta_figures(study: MetaStudy, result: StudyResult) -> list[Figure]:
    """Variance explained compared with the controls, how well each latent is explained, and how meta-latents are shared."""
    return [_variance_figure(study), _share_figure(study), _use_figure(study)]


def _variance_figure(study: MetaStudy) -> Figure:
    every = _every(study)
    words = [NAMES[name] for name in every]
    values = [each.variance.value for each in every.values()]
    errors = [1.96 * (each.variance.standard_error or 0) for each in every.values()]
    trace = bars(words, values, "variance explained", 0) | {"error_y": {"type": "data", "array": errors, "thickness": 1}}
    return Figure(
        key="variance",
        title="Variance explained",
        caption=f"By {study.settings.n:,} meta-latents with {study.settings.active} active on average, of the decoder "
        "directions and of the two controls, with 95 % intervals over latents.",
        summary="Bar chart of the variance explained of decoder directions and controls.",
        traces=[trace],
        layout=axes("", "variance explained", bargap=0.4),
        header=["Directions", "Variance explained", "Active"],
        rows=[[NAMES[name], f"{each.variance.value or 0:.4f} ± {each.variance.standard_error or 0:.4f}", f"{each.l0:.2f}"]
              for name, each in every.items()],
    )  # fmt: skip


def _share_figure(study: MetaStudy) -> Figure:
    edges = np.linspace(-0.2, 1.0, 49)
    shares = part_shares(study.real, study.directions).numpy().clip(-0.2, 1.0)
    counts = np.histogram(shares, edges)[0].tolist()
    middles = ((edges[:-1] + edges[1:]) / 2).round(4).tolist()
    return Figure(
        key="shares",
        title="How much of each latent is explained",
        caption="Latents by the share of their direction's squared length (from the bias) that their meta-latents explain.",
        summary="Histogram of latents by the share of their direction that is explained.",
        traces=[bars(middles, counts, "latents", 0)],
        layout=axes("share explained", "latents", bargap=0.04),
        header=["Share", "Latents"],
        rows=[[f"{a:.3f} to {b:.3f}", f"{count:,}"] for (a, b), count in zip(pairwise(edges.tolist()), counts, strict=True)],
    )


def _use_figure(study: MetaStudy) -> Figure:
    ranked = _uses(study.real).sort(descending=True).values.tolist()
    return Figure(
        key="uses",
        title="How many latents share a meta-latent",
        caption="Meta-latents from the most to the least shared.",
        summary="Bar chart of the number of latents that each meta-latent is part of.",
        traces=[bars(list(range(1, len(ranked) + 1)), ranked, "latents", 0)],
        layout=axes("meta-latents by rank", "latents", bargap=0.0),
        header=["Rank", "Latents"],
        rows=[[str(place + 1), f"{count:,}"] for place, count in enumerate(ranked)],
    )
