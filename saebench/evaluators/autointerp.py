"""Automated interpretation: a language model explains latents, and says which windows of text its explanations fit.

Source: SAEBench (arXiv 2503.09532), after Bills et al. 2023; the protocol is ``explain/saebench.toml``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from saebench.errors import SaebenchError
from saebench.evaluators.base import CleanBatch, Measured, Setup, StreamingEvaluator, TokenBlock
from saebench.evaluators.options import read_options
from saebench.explaining.autointerp.entries import Entries
from saebench.explaining.autointerp.protocol import definitions_used, read_autointerp_protocol
from saebench.explaining.autointerp.questions import Verdict, explanation_question, score_answer, scoring_question
from saebench.explaining.autointerp.windows import Windows, choose_windows
from saebench.explaining.llm.answers import ActiveTexts, Explanation, parse
from saebench.explaining.llm.cache import AnswerCache
from saebench.explaining.llm.client import ChatClient, Reply
from saebench.explaining.llm.endpoint import Endpoint, Prompt
from saebench.explaining.llm.explainer import WindowWriter
from saebench.explaining.llm.limits import Limits
from saebench.explaining.vocabulary import token_strings
from saebench.results import EvaluatorResult, Metric
from saebench.results.metrics import Counted
from saebench.results.statistics import mean_estimate

NUMBERS = {"concurrency": 8, "retries": 6, "timeout": 120}
COLUMNS = ("latent", "hits", "misses", "false_alarms", "rejections")


class AutoInterp(StreamingEvaluator):
    """SAEBench's detection score of explanations by a language model behind an endpoint."""

    name = "autointerp"
    version = 2  # an answer that names a window twice is usable
    description = "Share of windows that a language model classifies right from its explanations (needs an endpoint)"
    samples = ("by_latent", "latents_sampled", "live", "unusable")

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.protocol = read_autointerp_protocol()
        self.client, self.count = _client(setup)
        self.entries = Entries(setup.sae.n_latents, setup.seed)
        self._first = self._rows = 0

    @classmethod
    def check(cls, setup: Setup) -> None:
        """Raise ``SaebenchError`` where options are invalid, rows are too short or the endpoint does not work.

        An endpoint that an earlier run has checked is not asked again: its answers may be in the cache.
        """
        super().check(setup)
        window, context = read_autointerp_protocol().window, setup.corpus.context
        if context < window.size:
            raise SaebenchError(
                f"Rows of {context} tokens have no room for autointerp's windows of {window.size}: use a longer --context."
            )
        client, _ = _client(setup)
        if not client.known:
            client.check()

    @classmethod
    def definitions(cls, setup: Setup) -> dict[str, str]:
        """The protocol and its prompts."""
        return definitions_used()

    def start_batch(self, batch: CleanBatch) -> None:
        """Count its rows."""
        self._first, self._rows = self._rows, self._rows + batch.tokens.shape[0]

    def observe(self, block: TokenBlock) -> None:
        """Keep the activations of the sampled latents."""
        token, slot = block.latents.active.nonzero(as_tuple=True)
        rows = block.rows[token].cpu() + self._first
        if self.setup.rows is not None:
            rows = self.setup.rows[rows]
        places = rows * self.setup.corpus.context + block.positions[token].cpu()
        code = block.latents
        self.entries.add(code.indices[token, slot].cpu(), places, code.values[token, slot].abs().cpu())

    def merge(self, other: StreamingEvaluator) -> None:
        """Add the activations of later rows."""
        assert isinstance(other, AutoInterp)
        self.entries.merge(other.entries)

    def compute(self) -> EvaluatorResult:
        """Choose latents and windows, ask, and score.

        Raises:
            SaebenchError: the endpoint fails; its answers so far are cached.
        """
        live = self.entries.live(self.protocol.activations)
        chosen = live[: self.count].tolist()
        windows, skipped = self._windows(chosen)
        details: dict[str, Any] = {
            "latents_sampled": len(chosen), "live": int((self.entries.counts > self.protocol.activations).sum()),
            "skipped": skipped, "unusable": {"explanations": 0, "answers": 0}, "latents": {},
            "by_latent": {name: [] for name in COLUMNS},
        }  # fmt: skip
        if windows:
            self._ask(windows, details)
        settings = {"endpoint": self.client.endpoint.identity, "protocol": self.protocol.model_dump(mode="json")}
        return self.result(metrics_of(details, self.setup.sae.n_latents), details, settings)

    @classmethod
    def recomputed(cls, found: EvaluatorResult, measured: Measured) -> list[Metric]:
        """All metrics, from the counts by latent."""
        return metrics_of(found.details, measured.n_latents)

    def _windows(self, latents: list[int]) -> tuple[list[Windows], dict[str, str]]:
        found, skipped = [], {}
        entries = self.entries.of(latents)
        for latent in latents:
            one = choose_windows(latent, *entries[latent], self.setup.corpus.tokens, self.protocol, self.setup.seed)
            if isinstance(one, str):
                skipped[str(latent)] = one
            else:
                found.append(one)
        return found, skipped

    def _ask(self, windows: Sequence[Windows], details: dict[str, Any]) -> None:
        progress, tokenizer = self.setup.progress, self.setup.cut.model.tokenizer
        writer = self.setup.shared.once("token strings", lambda: token_strings(tokenizer))
        write = WindowWriter(writer, self.protocol.window)
        with progress.task("Explaining latents", total=len(windows), unit="latents") as advance:
            asked = [explanation_question(each, write, self.protocol) for each in windows]
            replies = _answered(self.client.ask_all(asked, advance))
        explained = []
        for each, reply in zip(windows, replies, strict=True):
            answer = None if reply.answer is None else parse(reply.answer.text, Explanation)
            details["unusable"]["explanations"] += answer is None
            if answer is not None:
                explained.append((each, answer.explanation))
        questions = [scoring_question(each, text, write, self.protocol) for each, text in explained]
        with progress.task("Scoring explanations", total=len(questions), unit="latents") as advance:
            replies = _answered(self.client.ask_all(questions, advance))
        for (each, text), question, reply in zip(explained, questions, replies, strict=True):
            _record(each, text, question, reply, details)


def _record(windows: Windows, explanation: str, question: Prompt, reply: Reply, details: dict[str, Any]) -> None:
    answer = None if reply.answer is None else parse(reply.answer.text, ActiveTexts)
    verdict = None if answer is None else score_answer(windows, answer)
    truth = [number for number, active in enumerate(windows.truth, 1) if active]
    details["latents"][str(windows.latent)] = {
        "explanation": explanation, "question": question.user, "active": truth,
        "named": None if answer is None or verdict is None else sorted(answer.active),
        "score": None if verdict is None else verdict.accuracy,
    }  # fmt: skip
    details["unusable"]["answers"] += verdict is None
    if verdict is not None:
        for name, value in {"latent": windows.latent, **vars(verdict)}.items():
            details["by_latent"][name].append(value)


def _answered(replies: Sequence[Reply]) -> Sequence[Reply]:
    """The replies, where every question was answered or refused.

    Raises:
        SaebenchError: some were neither; a repetition would answer them.
    """
    lost = [reply.trouble for reply in replies if reply.answer is None and not (reply.trouble or "").startswith("refused")]
    if lost:
        raise SaebenchError(
            f"{len(lost)} of {len(replies)} questions were not answered ({lost[0]}): the other answers are cached; repeat "
            "the command with --resume."
        )
    return replies


def metrics_of(details: Mapping[str, Any], n_latents: int) -> list[Metric]:
    """All metrics from the counts by latent.

    Raises:
        ValueError, TypeError: the details are not as ``AutoInterp`` writes them.
    """
    columns = [details["by_latent"][name] for name in COLUMNS[1:]]
    verdicts = [Verdict(*row) for row in zip(*columns, strict=True)]
    if any(type(count) is not int or count < 0 for column in columns for count in column):
        raise ValueError("counts of windows are whole numbers from 0")
    accuracy = torch.tensor([each.accuracy for each in verdicts], dtype=torch.float64)
    balanced = [each.balanced_accuracy for each in verdicts]
    both = torch.tensor([each for each in balanced if each is not None], dtype=torch.float64)
    sampled, unusable = int(details["latents_sampled"]), details["unusable"]
    asked = len(verdicts) + unusable["explanations"] + unusable["answers"]
    why = "no latent is active often enough in this text: use more --tokens" if not asked else "no answer was usable"
    of = Counted(len(verdicts), "latents")
    return [
        of.metric("autointerp_score", mean_estimate(accuracy), "1", "higher",
                  "Share of windows classified right, mean over latents; naming none scores about 0.71", why),
        Counted(both.numel(), "latents").metric(
            "balanced_accuracy", mean_estimate(both), "1", "higher",
            "Mean of the shares right among active and inactive windows, mean over latents; 0.5 is chance", why),
        Counted(n_latents, "latents").metric("live_latents", details["live"] / n_latents, "1", "higher",
                                             "Share of latents that are active often enough to be sampled"),
        Counted(sampled, "latents").metric("scored_latents", asked / sampled if sampled else None, "1", "none",
                                           "Share of the sampled latents with enough windows", why),
        Counted(asked, "latents").metric(
            "unusable_answers", (unusable["explanations"] + unusable["answers"]) / asked if asked else None, "1", "lower",
            "Share of latents for which an answer was not of the requested form", why),
    ]  # fmt: skip


def _client(setup: Setup) -> tuple[ChatClient, int]:
    """The endpoint's client and the number of latents, from the options.

    Raises:
        SaebenchError: an option is missing or invalid.
    """
    given = dict(setup.options)
    protocol = read_autointerp_protocol()
    text = {name: given.pop(name, default) for name, default in (("url", ""), ("model", ""), ("key", "OPENAI_API_KEY"))}
    if not text["url"] or not text["model"]:
        raise SaebenchError(
            "autointerp asks a language model: name its endpoint with --option autointerp.url=http://localhost:8000/v1 and "
            "--option autointerp.model=NAME."
        )
    numbers = read_options("autointerp", given, NUMBERS | {"latents": protocol.latents})
    endpoint = Endpoint(str(text["url"]), str(text["model"]), str(text["key"]), options="--option autointerp.")
    limits = Limits(numbers["concurrency"], timeout=float(numbers["timeout"]), retries=numbers["retries"])
    return ChatClient(endpoint, protocol.sampling.made(), limits, AnswerCache()), numbers["latents"]
