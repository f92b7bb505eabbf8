"""Explaining latents of an autoencoder and scoring the explanations, from folder of examples to result."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pandas as pd
import torch
from pydantic import BaseModel

from saebench.errors import SaebenchError
from saebench.explaining.examples.folder import ActivatingExamples
from saebench.explaining.llm.answers import Explanation, parse
from saebench.explaining.llm.client import ChatClient, Reply
from saebench.explaining.llm.endpoint import Endpoint, Prompt
from saebench.explaining.llm.explainer import Writer, explanation_prompt
from saebench.explaining.llm.plan import Load, other_latent, plan, questions_about
from saebench.explaining.llm.protocol import Protocol
from saebench.explaining.llm.scorers import Question, Score, Test, make_tests
from saebench.explaining.llm.windows import Material, Pool, sample_size, shortfall, split, with_inactive
from saebench.lm import Cut
from saebench.progress import Progress
from saebench.sae import Autoencoder
from saebench.text.corpus import TokenCorpus

LATENTS_AT_A_TIME = 32
"""Latents whose questions are in memory together."""
UNUSABLE, UNANSWERED = "the explainer's answer was unusable", "the explainer did not answer"


@dataclass
class Spent:
    """The questions to one role in a run.

    Attributes:
        asked: questions sent to the endpoint; ``cached`` were in the cache.
        cached: see ``asked``.
        prompt_tokens: of those asked and answered, as counted by the endpoint; ``completion_tokens`` likewise.
        completion_tokens: see ``prompt_tokens``.
        uncounted: answers for which the endpoint gave no count, so that the sums include an estimate.
        retries: further attempts.
        troubles: unanswered questions, by reason.
    """

    asked: int = 0
    cached: int = 0
    prompt_tokens: float = 0.0
    completion_tokens: float = 0.0
    uncounted: int = 0
    retries: int = 0
    troubles: dict[str, int] = field(default_factory=dict)

    def add(self, prompt: Prompt, reply: Reply) -> None:
        """Count a question."""
        if reply.cached:
            self.cached += 1
            return
        self.asked += 1
        if reply.answer is None:
            trouble = reply.trouble or "unknown"
            self.troubles[trouble] = self.troubles.get(trouble, 0) + 1
            return
        counts = reply.answer.prompt_tokens, reply.answer.completion_tokens
        self.uncounted += None in counts
        self.prompt_tokens += counts[0] if counts[0] is not None else round(prompt.prompt_tokens)
        self.completion_tokens += counts[1] if counts[1] is not None else round(prompt.answer_tokens)


@dataclass
class Outcome:
    """The outcome for one latent.

    Attributes:
        latent: its number.
        explanation: None where there is none, for a ``reason``.
        reason: see ``explanation``.
        scores: by test; ``controls`` by another latent's explanation, that of latent ``control``.
        controls: see ``scores``.
        control: see ``scores``.
        unanswered: questions without an answer, by test, the control's among them.
    """

    latent: int
    explanation: str | None = None
    reason: str | None = None
    scores: dict[str, Score] = field(default_factory=dict)
    controls: dict[str, Score] = field(default_factory=dict)
    control: int | None = None
    unanswered: dict[str, int] = field(default_factory=dict)


class ExplanationRun:
    """The steps of a run: choose latents, look for inactive windows, plan, ask and score.

        Args:
            examples: of the autoencoder's latents.
            protocol: of ``explain/llm.toml``.
            explainer: writes the explanations; ``scorer`` answers the tests.
            scorer: see ``explainer``.
    latents: their indices; a random sample of those with enough activations where None.
            count: size of that sample; the protocol's where None.
            seed: of samples and orders.
            progress: where to show progress.

        Raises:
            SaebenchError: the examples lack what the protocol needs, or none of the latents can be explained.
    """

    def __init__(
        self,
        examples: ActivatingExamples,
        protocol: Protocol,
        explainer: ChatClient,
        scorer: ChatClient,
        *,
        latents: Sequence[int] | None = None,
        count: int | None = None,
        seed: int = 0,
        progress: Progress,
    ) -> None:
        problem = shortfall(examples, protocol)
        if problem:
            raise SaebenchError(f"The examples in {examples.folder} {problem}.")
        self.examples, self.protocol, self.explainer, self.scorer = examples, protocol, explainer, scorer
        self.seed, self.progress = seed, progress
        self.tests: list[Test] = make_tests(protocol, seed)
        self.writer = Writer(examples.vocabulary, protocol)
        self.skipped: dict[int, str] = {}
        self.materials: list[Material] = []
        self.spent = {"explainer": Spent(), "scorer": Spent()}
        self.stages: dict[str, float] = {}
        self._choose(latents, protocol.latents if count is None else count)

    def _choose(self, latents: Sequence[int] | None, count: int) -> None:
        if latents is None:
            if count < 1:
                raise SaebenchError(f"--count is {count}: use 1 or more.")
            enough = torch.tensor(self.enough.to_numpy().nonzero()[0])
            order = enough[torch.randperm(len(enough), generator=torch.Generator().manual_seed(self.seed))].tolist()
        else:
            order = list(dict.fromkeys(latents))
            count = len(order)
        for number in order:
            if len(self.materials) == count:
                break
            found = split(self.examples.latent(number), self.protocol, self.seed)
            if isinstance(found, str):
                self.skipped[number] = found
            else:
                self.materials.append(found)
        if not self.materials:
            raise SaebenchError(
                f"None of the latents has enough activations in {self.examples.folder} to be explained: collect examples "
                "of more text with `saebench examples --tokens`."
            )

    @property
    def enough(self) -> pd.Series[bool]:
        """For each latent of the dictionary, whether enough of its activations are kept."""
        table = self.examples.table
        return (table["random"] >= sample_size(self.protocol)) & (table["top"] >= self.protocol.explainer.top)

    @property
    def explanations_known(self) -> bool:
        """Whether the cache has an answer for every explanation."""
        return all(self.explainer.cached(explanation_prompt(each, self.writer)) is not None for each in self.materials)

    def find_inactive(self, sae: Autoencoder, cut: Cut, corpus: TokenCorpus, rows_per_batch: int) -> None:
        """Find windows in which the latents are not active.

        Raises:
            SaebenchError: all latents are active nearly everywhere.
        """
        start = time.perf_counter()
        pool = Pool.sample(corpus, self.protocol.pool.tokens, self.seed)
        pool.encode(sae, cut, [each.latent for each in self.materials], rows_per_batch, self.progress)
        complete = []
        for material in self.materials:
            found = with_inactive(material, pool, self.protocol, self.seed)
            if isinstance(found, str):
                self.skipped[material.latent] = found
            else:
                complete.append(found)
        self.materials = complete
        self.stages["inactive windows"] = time.perf_counter() - start
        if not complete:
            raise SaebenchError("Every latent is active nearly everywhere, so that there is no text without it.")

    def plan(self) -> tuple[Load, Load]:
        """The planned questions for explainer and scorer."""
        return plan(self.materials, self.tests, self.writer, self.explainer, self.scorer, self.seed)

    def run(self) -> list[Outcome]:
        """Ask for explanations, then for scores.

        Raises:
            SaebenchError: an endpoint rejects questions or stops answering; its answers are in the cache.
        """
        start = time.perf_counter()
        outcomes = self._explain()
        self.stages["explaining"] = time.perf_counter() - start
        texts = {each.latent: each.explanation for each in outcomes if each.explanation is not None}
        others = other_latent(list(texts), self.seed) if self.protocol.control else {}
        for outcome in outcomes:
            outcome.control = others.get(outcome.latent)
        start = time.perf_counter()
        jobs = [(material, outcome) for material, outcome in zip(self.materials, outcomes, strict=True)]
        with self.progress.task("Scoring", total=len(jobs), unit="latents") as advance:
            for first in range(0, len(jobs), LATENTS_AT_A_TIME):
                self._score(jobs[first : first + LATENTS_AT_A_TIME], texts, advance)
        self.stages["scoring"] = time.perf_counter() - start
        self.spent["explainer"].retries = self.explainer.retries
        self.spent["scorer"].retries = self.scorer.retries if self.scorer is not self.explainer else 0
        return outcomes

    def _explain(self) -> list[Outcome]:
        prompts = [explanation_prompt(material, self.writer) for material in self.materials]
        with self.progress.task("Explaining", total=len(prompts), unit="latents") as advance:
            replies = self.explainer.ask_all(prompts, advance)
        outcomes = []
        for material, prompt, reply in zip(self.materials, prompts, replies, strict=True):
            self.spent["explainer"].add(prompt, reply)
            found = parse(reply.answer.text, Explanation) if reply.answer is not None else None
            reason = UNUSABLE if reply.answer is not None else UNANSWERED
            outcomes.append(Outcome(material.latent, found.explanation, None) if found is not None
                            else Outcome(material.latent, None, reason))  # fmt: skip
        return outcomes

    def _score(
        self, jobs: Sequence[tuple[Material, Outcome]], texts: dict[int, str], advance: Callable[[float], None]
    ) -> None:
        """Run all tests on some latents, and record their scores."""
        asked: list[tuple[Outcome, Test, bool, list[Question]]] = []
        for material, outcome in jobs:
            control = texts[outcome.control] if outcome.control is not None else None
            for test, is_control, questions in questions_about(
                material, self.tests, outcome.explanation, control, self.writer
            ):
                asked.append((outcome, test, is_control, questions))
        prompts = list(dict.fromkeys(question.prompt for *_, questions in asked for question in questions))
        share = len(jobs) / max(len(prompts), 1)
        replies = dict(zip(prompts, self.scorer.ask_all(prompts, lambda amount: advance(amount * share)), strict=True))
        for prompt, reply in replies.items():
            self.spent["scorer"].add(prompt, reply)
        for outcome, test, is_control, questions in asked:
            answered = [question for question in questions if replies[question.prompt].answer is not None]
            answers = [_parsed(replies[question.prompt], question.prompt.form) for question in answered]
            score = test.score_answers(answered, answers)
            (outcome.controls if is_control else outcome.scores)[test.name] = score
            outcome.unanswered[test.name] = outcome.unanswered.get(test.name, 0) + len(questions) - len(answered)


def _parsed(reply: Reply, form: type[BaseModel]) -> BaseModel | None:
    return parse(reply.answer.text, form) if reply.answer is not None else None


def spent_record(spent: Spent, endpoint: Endpoint) -> dict[str, object]:
    """A role's entry in the record of questions."""
    return vars(spent) | {"cost": endpoint.cost(spent.prompt_tokens, spent.completion_tokens)}
