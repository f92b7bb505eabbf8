"""From the numbers of single tasks to the metrics of a suite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from saebench.probing.protocol import Protocol
from saebench.results import Metric
from saebench.results.metrics import Direction, metric
from saebench.results.statistics import Estimate

Found = dict[str, Any]


def summarise(found: Found, wanted: int, protocol: Protocol) -> list[Metric]:
    """Means over tasks. Where tasks are missing, every metric says how many of the tasks it covers.

    The tasks are a fixed list, not a sample: a held-out mean's standard error combines those of the tasks.

    Args:
        found: by task, as the evaluator collects it.
        wanted: how many tasks were requested.
        protocol: names the baselines and the values of k.
    """
    count = OverTasks(len(found), wanted)
    tasks = list(found.values())
    metrics = [
        count.metric("probe_loss", mean_over([each["best_latent"]["train_loss"] for each in tasks]), "nats", "lower",
                     "Mean over tasks of the best latent's training loss, as Gao et al. have it"),
        *_held_out(count, [each["best_latent"]["held_out"] for each in tasks], "probe", "of that latent on held-out texts"),
        _solvable(count, tasks),
        _wins(count, tasks),
    ]  # fmt: skip
    names = [*protocol.dense.probe.directions, "logistic"]
    words = {"channels": "best channel of the activations", "pca": "best principal direction",
             "random": "best of as many random directions",
             "logistic": "logistic regression on all channels"}  # fmt: skip
    for name in names:
        base = [each["baselines"][name] for each in tasks]
        if name != "logistic":
            metrics.append(count.metric(f"{name}_loss", mean_over([each["train_loss"] for each in base]), "nats", "none",
                                        f"Baseline: training loss of the {words[name]}"))  # fmt: skip
        scores = [each if name == "logistic" else each["held_out"] for each in base]
        metrics.append(_held_out(count, scores, name, f"baseline: {words[name]}", "none")[0])
    for k in protocol.k_sparse.probe.k:
        scores = [each["k_sparse"][str(k)] for each in tasks]
        metrics += _k_sparse(count, scores, k)
    return metrics


class OverTasks:
    """Makes means over a fixed list of tasks into metrics, which say how many of the ``wanted`` tasks they cover."""

    def __init__(self, done: int, wanted: int) -> None:
        self.done = done
        self.unit = "tasks" if done == wanted else f"of {wanted} tasks"
        self.remark = "" if done == wanted else f" (over {done} of {wanted} tasks: the others' data is missing)"

    def metric(
        self, name: str, estimate: Estimate, unit: str, direction: Direction, words: str, reason: str | None = None
    ) -> Metric:
        """A metric; ``words`` describe it, without the tasks it covers."""
        return metric(name, estimate, unit=unit, direction=direction, n=self.done, n_unit=self.unit,
                      description=words + self.remark, reason=reason)  # fmt: skip


def mean_over(values: Sequence[float], errors: Sequence[float | None] = ()) -> Estimate:
    """The mean over tasks, or over a set's classes; its standard error combines theirs, where all are known."""
    known = [error for error in errors if error is not None]
    error = math.sqrt(sum(each**2 for each in known)) / len(values) if len(known) == len(values) else None
    return Estimate(sum(values) / len(values), error)


def _with_interval(made: Metric) -> Metric:
    mean, error = made.value, made.standard_error
    if mean is None or error is None:
        return made
    return made.model_copy(update={"interval": (mean - 1.96 * error, mean + 1.96 * error)})


def _mean_loss(held_out: list[Found]) -> Estimate:
    return mean_over([each["loss"] for each in held_out], [each["standard_error"] for each in held_out])


def _held_out(
    count: OverTasks, scores: list[Found], name: str, words: str, direction: Literal["lower", "none"] = "lower"
) -> list[Metric]:
    loss = count.metric(
        f"{name}_loss_held_out", _mean_loss(scores), "nats", direction,
        f"Mean loss on held-out texts, {words}" if direction == "none" else f"Mean loss {words}",
    )  # fmt: skip
    shares = [
        count.metric(f"{name}_{what}", mean_over([each[what] for each in scores]), "1", "higher", f"Mean {what} {words}")
        for what in ("accuracy", "auc")
    ]
    return [_with_interval(loss), *shares]


def _solvable(count: OverTasks, tasks: list[Found]) -> Metric:
    """The held-out loss over the tasks that all channels together solve better than a coin, by two standard errors.

    On the others no direction can be expected to do better, and their losses only add noise.
    """
    able = [each for each in tasks if _better_than_chance(each["baselines"]["logistic"])]
    name, words = "probe_loss_solvable", f"Mean held-out loss over the {len(able)} tasks that all channels together solve"
    held = [each["best_latent"]["held_out"] for each in able]
    loss = _mean_loss(held) if held else Estimate(None, None)
    none = "all channels together solve none of the tasks better than a coin"
    return _with_interval(count.metric(name, loss, "nats", "lower", words, none)).model_copy(update={"n": len(able)})


def _better_than_chance(logistic: Found) -> bool:
    error = logistic["standard_error"]
    return bool(logistic["loss"] + 2 * (error or 0.0) < math.log(2))


def _k_sparse(count: OverTasks, scores: list[Found], k: int) -> list[Metric]:
    words = f"on held-out texts of a probe on {k} latent{'s' if k > 1 else ''}"
    return [
        count.metric(
            f"k_sparse_{what}_{k}", mean_over([each[what] for each in scores]), "1", "higher", f"Mean {shown} {words}"
        )
        for what, shown in (("accuracy", "accuracy"), ("auc", "AUC"))
    ]


def _wins(count: OverTasks, tasks: list[Found]) -> Metric:
    """The share of tasks where the latent's held-out loss is below the channel's (ties: half), with Wilson's interval."""
    wins = 0.0
    for each in tasks:
        ours = each["best_latent"]["held_out"]["loss"]
        theirs = each["baselines"]["channels"]["held_out"]["loss"]
        wins += 1.0 if ours < theirs else 0.5 if ours == theirs else 0.0
    n, z = len(tasks), 1.96
    share = wins / n
    centre, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    made = count.metric("win_rate", Estimate(share, None), "1", "higher",
                        "Share of tasks with a lower held-out loss than the best channel's")  # fmt: skip
    scale = 1 + z * z / n
    return made.model_copy(update={"interval": (max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale))})
