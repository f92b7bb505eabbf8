"""From the numbers of single tasks to the metrics of a suite."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from saebench.probing.protocol import Protocol
from saebench.results import Metric
from saebench.results.metrics import metric
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
    count = _Count(len(found), wanted)
    tasks = list(found.values())
    metrics = [
        count.metric("probe_loss", [each["best_latent"]["train_loss"] for each in tasks], None, "nats", "lower",
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
            metrics.append(count.metric(f"{name}_loss", [each["train_loss"] for each in base], None, "nats", "none",
                                        f"Baseline: training loss of the {words[name]}"))  # fmt: skip
        scores = [each if name == "logistic" else each["held_out"] for each in base]
        metrics.append(_held_out(count, scores, name, f"baseline: {words[name]}", "none")[0])
    for k in protocol.k_sparse.probe.k:
        scores = [each["k_sparse"][str(k)] for each in tasks]
        metrics += _k_sparse(count, scores, k)
    return metrics


class _Count:
    def __init__(self, done: int, wanted: int) -> None:
        self.done = done
        self.unit = "tasks" if done == wanted else f"of {wanted} tasks"
        self.remark = "" if done == wanted else f" (over {done} of {wanted} tasks: the others' data is missing)"

    def metric(
        self, name: str, values: Sequence[float], errors: Sequence[float | None] | None, unit: str,
        direction: Literal["lower", "higher", "none"], description: str,
    ) -> Metric:  # fmt: skip
        """A mean over tasks; with the tasks' standard errors it gets its own, and an interval."""
        mean = sum(values) / len(values)
        known = [error for error in errors or [] if error is not None]
        error = math.sqrt(sum(each**2 for each in known)) / len(values) if errors and len(known) == len(values) else None
        made = metric(name, Estimate(mean, error), unit=unit, direction=direction, n=self.done, n_unit=self.unit,
                      description=description + self.remark)  # fmt: skip
        if error is None:
            return made
        return made.model_copy(update={"interval": (mean - 1.96 * error, mean + 1.96 * error)})


def _held_out(
    count: _Count, scores: list[Found], name: str, words: str, direction: Literal["lower", "none"] = "lower"
) -> list[Metric]:
    loss = count.metric(
        f"{name}_loss_held_out", [each["loss"] for each in scores], [each["standard_error"] for each in scores], "nats",
        direction, f"Mean loss on held-out texts, {words}" if direction == "none" else f"Mean loss {words}",
    )  # fmt: skip
    shares: list[tuple[str, Callable[[Found], float]]] = [
        ("accuracy", lambda each: float(each["accuracy"])),
        ("auc", lambda each: float(each["auc"])),
    ]
    return [
        loss,
        *(
            count.metric(f"{name}_{what}", [get(each) for each in scores], None, "1", "higher", f"Mean {what} {words}")
            for what, get in shares
        ),
    ]


def _solvable(count: _Count, tasks: list[Found]) -> Metric:
    """The held-out loss over the tasks that all channels together solve better than a coin, by two standard errors.

    On the others no direction can be expected to do better, and their losses only add noise.
    """
    able = [each for each in tasks if _better_than_chance(each["baselines"]["logistic"])]
    name, words = "probe_loss_solvable", f"Mean held-out loss over the {len(able)} tasks that all channels together solve"
    if not able:
        none = Estimate(None, None)
        return metric(name, none, unit="nats", direction="lower", n=0, n_unit="tasks", description=words + count.remark,
                      reason="all channels together solve none of the tasks better than a coin")  # fmt: skip
    held = [each["best_latent"]["held_out"] for each in able]
    made = count.metric(
        name, [each["loss"] for each in held], [each["standard_error"] for each in held], "nats", "lower", words
    )
    return made.model_copy(update={"n": len(able)})


def _better_than_chance(logistic: Found) -> bool:
    error = logistic["standard_error"]
    return bool(logistic["loss"] + 2 * (error or 0.0) < math.log(2))


def _k_sparse(count: _Count, scores: list[Found], k: int) -> list[Metric]:
    words = f"on held-out texts of a probe on {k} latent{'s' if k > 1 else ''}"
    return [
        count.metric(
            f"k_sparse_accuracy_{k}", [each["accuracy"] for each in scores], None, "1", "higher", f"Mean accuracy {words}"
        ),
        count.metric(f"k_sparse_auc_{k}", [each["auc"] for each in scores], None, "1", "higher", f"Mean AUC {words}"),
    ]


def _wins(count: _Count, tasks: list[Found]) -> Metric:
    """The share of tasks where the latent's held-out loss is below the channel's (ties: half), with Wilson's interval."""
    wins = 0.0
    for each in tasks:
        ours = each["best_latent"]["held_out"]["loss"]
        theirs = each["baselines"]["channels"]["held_out"]["loss"]
        wins += 1.0 if ours < theirs else 0.5 if ours == theirs else 0.0
    n, z = len(tasks), 1.96
    share = wins / n
    centre, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    made = count.metric(
        "win_rate", [share], None, "1", "higher", "Share of tasks with a lower held-out loss than the best channel's"
    )
    scale = 1 + z * z / n
    return made.model_copy(update={"interval": (max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale))})
