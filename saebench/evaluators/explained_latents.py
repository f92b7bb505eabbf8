"""The metrics of ``explainability`` from scores by latent: of a run, or of a result's details."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from saebench.evaluators.splicing.explained_loss import loss_metrics, read_losses
from saebench.explaining.examples.sampling import ChosenLatents
from saebench.explaining.n2g.scoring import LatentScore
from saebench.explaining.n2g.study import Study
from saebench.explaining.n2g.summary import summarise
from saebench.results import Metric
from saebench.results.metrics import metric
from saebench.results.statistics import Estimate, read_columns, rounded

MOST_DRAWN = 2 * 10**7
"""Bootstrap samples times latents: bounds the memory that a stranger's result can ask for."""
_QUANTITIES = {
    "precision": "Share of positions predicted positive at which the latent fires, on unseen text",
    "recall": "Share of held-out activations predicted positive",
    "recall_unseen": "Share of the latent's activations in unseen text that are predicted positive",
    "f1": "Harmonic mean of precision and recall, both on unseen text",
    "f1_balanced": "F1 on unseen text if half of its positions were active",
    "auc": "Area under the ROC curve of simulated activations, on unseen text",
}
_BASELINE_WORDS = {
    "unigram": "tries of single tokens for the same latents",
    "random": "tries for random directions that fire as often",
    "channels": "tries for the channels of the activations, as many active",
}


def scored_latents(chosen: ChosenLatents, scores: Sequence[LatentScore], of: Study | None = None) -> dict[str, list[Any]]:
    """Scores by latent in columns, with seven digits: what the means are computed from.

    Args:
        chosen: the latents, with their strata and weights.
        scores: one of each.
        of: adds the mass and the number of n-grams of the study's own latents.
    """
    columns: dict[str, list[Any]] = {
        "latent": list(chosen.latents), "stratum": list(chosen.strata), "weight": [rounded(each) for each in chosen.weights]
    }  # fmt: skip
    if of is not None:
        columns["mass"] = [rounded(float(of.sample.mass[latent])) for latent in chosen.latents]
        columns["paths"] = [sum(1 for _ in of.tries[latent].paths()) for latent in chosen.latents]
    return columns | {name: [_plain(getattr(score, name)) for score in scores] for name in _QUANTITIES}


def metrics_of(details: Mapping[str, Any], baselines: Sequence[str], n_latents: int, draws: int, seed: int) -> list[Metric]:
    """All metrics.

    Args:
        details: with ``by_latent``, ``not_scored``, ``tokens_of_examples`` and perhaps ``by_row``.
        baselines: which of them were run.
        n_latents: of the autoencoder.
        draws: bootstrap samples; ``seed``: of the bootstrap.
        seed: see ``draws``.

    Raises:
        ValueError: the details are not as ``Explainability`` writes them.
    """
    if draws * max((len(each["latent"]) for each in details["by_latent"].values()), default=0) > MOST_DRAWN:
        raise ValueError("there are more bootstrap samples of latents than are drawn here")
    means = _Means(details["by_latent"], draws, seed)
    metrics = [*_population(details, means, n_latents), *means.quantities("own")]
    for name in baselines:
        metrics += means.quantities(name)
    if "by_row" in details:
        metrics += loss_metrics(read_losses(details["by_row"]), int(details["by_row"]["explained"]))
    return metrics


class _Means:
    """Means over latents with bootstrap intervals."""

    def __init__(self, by_latent: Mapping[str, Mapping[str, Any]], draws: int, seed: int) -> None:
        self._by_latent, self._draws, self._seed = by_latent, draws, seed

    def quantities(self, of: str) -> list[Metric]:
        """Every quantity as a mean over latents; for the autoencoder's own also weighted by their activation mass."""
        prefix = "" if of == "own" else f"{of}_"
        whose = "" if of == "own" else f"; {_BASELINE_WORDS[of]}"
        found = []
        for name, words in _QUANTITIES.items():
            for suffix, how in [("", "mean over latents"), ("_by_mass", "weighted by activation mass")][
                : 2 if of == "own" else 1
            ]:
                found.append(self.mean(of, name, f"{prefix}{name}{suffix}", f"{words}, {how}{whose}", bool(suffix)))
        return found

    def mean(self, of: str, column: str, name: str, words: str, by_mass: bool = False) -> Metric:
        """A column's mean, weighted by what each latent represents, and by its mass."""
        given = self._by_latent[of]
        values = given[column]
        kept = [index for index, value in enumerate(values) if value is not None]
        read_columns({"values": [values[index] for index in kept]}, ["values"])
        table = read_columns(given, ["stratum", "weight", *(["mass"] if by_mass else [])])
        if len(values) != table.shape[0]:
            raise ValueError("the columns differ in length")
        weights = table[:, 1:].prod(dim=1).tolist()
        summary = summarise(values, [int(each) for each in table[:, 0].tolist()], weights, self._draws, self._seed)
        made = metric(
            name,
            Estimate(summary.value, summary.standard_error),
            unit="1",
            direction="higher",
            n=summary.n,
            n_unit="latents",
            description=words,
            reason="no latent fired often enough" if not values else "not defined for any of the latents",
        )
        return made.model_copy(update={"interval": summary.interval})


def _population(details: Mapping[str, Any], means: _Means, n: int) -> list[Metric]:
    why = details["not_scored"]
    dead, few = why["dead"], why["too_few_activations"]
    if not all(type(count) is int and 0 <= count <= n for count in (dead, few, dead + few)):
        raise ValueError(f"counts of latents are whole numbers from 0 to {n}")
    text = f"on {details['tokens_of_examples']} tokens of examples; they are not scored"
    size = means.mean("own", "paths", "paths", "N-grams in a latent's trie, mean over latents")
    return [
        metric("dead_latents", dead / n, unit="1", direction="lower", n=n, n_unit="latents",
               description=f"Share of latents that never fired {text}"),
        metric("rare_latents", few / n, unit="1", direction="none", n=n, n_unit="latents",
               description=f"Share of latents that fired, but less than {why['needed']} times {text}"),
        size.model_copy(update={"direction": "none", "unit": "n-grams"}),
    ]  # fmt: skip


def _plain(value: Estimate | float | None) -> float | None:
    return rounded(value.value if isinstance(value, Estimate) else value)
