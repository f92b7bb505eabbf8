"""A submission's cheap metrics, recomputed from its checkpoint."""

from __future__ import annotations

from collections.abc import Iterator

from saebench.comparison.samples import stated_error
from saebench.errors import SaebenchError
from saebench.evaluation.run import EvaluationRun
from saebench.evaluation.settings import EvaluationSettings
from saebench.leaderboard.benchmark import Benchmark
from saebench.leaderboard.submission import Submission
from saebench.progress import Progress
from saebench.results import Metric, Result
from saebench.sae import SparseAutoencoder

CHEAP = ("reconstruction", "downstream")
ARITHMETIC = 1e-3
"""Relative: tolerance for other processors and batch sizes."""


def recompute(submission: Submission, benchmark: Benchmark, sae: SparseAutoencoder) -> list[str]:
    """Differences of the checkpoint's numbers from the submission's, as sentences without a full stop.

    A number may differ by its standard error: the stated one, or the recomputed one where it is smaller.

    Raises:
        SaebenchError: the model or the text is not available.
    """
    claimed = submission.result
    found = sae.info.weights_sha256
    if found != claimed.sae.weights_sha256:
        return [f"the checkpoint's weights have the hash {found}, the submission's {claimed.sae.weights_sha256}"]
    corpus = benchmark.corpus
    settings = EvaluationSettings(
        model=benchmark.model.name,
        hook=benchmark.hook_in,
        hook_out=benchmark.hook_out,
        corpus=corpus.name,
        corpus_revision=corpus.revision if "/" in corpus.name else None,
        tokens=corpus.tokens,
        context=corpus.context,
        bos=corpus.bos,
        exclude=corpus.excluded != "nothing",
        dtype=benchmark.model.dtype,
        seed=benchmark.seed,
        evaluators=[name for name in CHEAP if name in claimed.evaluators],
        options={name: given for name, given in claimed.settings.get("options", {}).items() if name in CHEAP},
    )
    (result,) = EvaluationRun([sae], settings, [None], False, Progress()).run()
    return list(_differences(claimed, result))


def matching(submissions: list[Submission], sae: SparseAutoencoder) -> Submission:
    """The submission of a checkpoint's weights.

    Raises:
        SaebenchError: there is none.
    """
    sha256, checkpoint = sae.info.weights_sha256, sae.info.origin
    own = [submission for submission in submissions if submission.result.sae.weights_sha256 == sha256]
    if len(own) > 1:
        raise SaebenchError(f"Several submissions have the weights of {checkpoint}: give the file to check.")
    if own:
        return own[0]
    if len(submissions) == 1:
        return submissions[0]  # the check reports that the weights differ
    raise SaebenchError(f"No submission has the weights of {checkpoint} (SHA-256 {sha256}): give the file to check.")


def _differences(claimed: Result, found: Result) -> Iterator[str]:
    if found.corpus.sha256 != claimed.corpus.sha256 or found.model.weights_sha256 != claimed.model.weights_sha256:
        yield "this machine's text or model differs from the submission's, so its numbers cannot be reproduced here"
        return
    for failure, words in found.failures.items():
        yield f"{failure} could not be recomputed: {words.removesuffix('.')}"
    for evaluator, result in found.evaluators.items():
        for name, metric in result.metrics.items():
            stated = claimed.evaluators[evaluator].metrics.get(name)
            if stated is None:
                yield f"{evaluator}.{name} is missing"
            elif not _agree(stated, metric):
                yield f"{evaluator}.{name} is stated as {_number(stated)}, but the checkpoint gives {_number(metric)}"


def _agree(stated: Metric, found: Metric) -> bool:
    if stated.value is None or found.value is None:
        return stated.value is found.value
    errors = [error for error in (stated_error(stated), stated_error(found)) if error is not None]
    return abs(stated.value - found.value) <= max(min(errors, default=0.0), ARITHMETIC * abs(found.value), 1e-9)


def _number(metric: Metric) -> str:
    if metric.value is None:
        return "undefined"
    error = stated_error(metric)
    return f"{metric.value:.6g}" + ("" if error is None else f" ± {error:.2g}")
