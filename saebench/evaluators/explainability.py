"""How well Neuron2Graph explains latents: precision, recall, and the loss with latents replaced by their explanations.

Source: Gao et al. 2024, sections 4.3 and 4.4. The protocol's numbers are in ``explain/*.toml``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from saebench.errors import SaebenchError
from saebench.evaluators.base import Evaluator, Measured, Setup
from saebench.evaluators.explained_latents import metrics_of, scored_latents
from saebench.evaluators.splicing.explained_loss import explained_losses
from saebench.explaining.examples.sampling import HookInputs
from saebench.explaining.n2g.baselines import BASELINES, InputMoments, channels, random_directions, unigram_tries
from saebench.explaining.n2g.scoring import LatentScore, score_tries
from saebench.explaining.n2g.shown import latent_records
from saebench.explaining.n2g.study import Study, StudyInputs, choose, sample_activations, starts_with_bos, study
from saebench.explaining.n2g.tokens import find_padding
from saebench.explaining.protocol import Protocol, read_protocol
from saebench.results import EvaluatorResult, Metric


@dataclass(frozen=True)
class Options:
    """The user's settings.

    Attributes:
        protocol: the definition with the user's changes.
        baselines: which of ``unigram``, ``random``, ``channels``; the last two cost as much per latent as the autoencoder.
        losses: whether to measure losses with simulated latents.
        only: latents to explain, instead of a sample.
    """

    protocol: Protocol
    baselines: tuple[str, ...]
    losses: bool
    only: tuple[int, ...] | None

    @staticmethod
    def read(given: Mapping[str, Any]) -> Options:
        """Check and complete the options.

        Raises:
            SaebenchError: one is unknown or out of range.
        """
        rest = dict(given)
        name = str(rest.pop("definition", "n2g"))
        baselines = rest.pop("baselines", "unigram")
        named = [each.strip() for each in baselines.split(",")] if isinstance(baselines, str) else list(baselines)
        wrong = [each for each in named if each and each not in BASELINES]
        if wrong:
            raise SaebenchError(f"There is no explainability baseline {wrong[0]!r}; there are: {', '.join(BASELINES)}.")
        only, losses = rest.pop("only", None), rest.pop("losses", True)
        if not isinstance(losses, bool):
            raise SaebenchError("The explainability option losses is true or false.")
        if only is not None and not (isinstance(only, list | tuple) and only and all(type(each) is int for each in only)):
            raise SaebenchError("The explainability option only is a list of latent numbers.")
        chosen = tuple(each for each in BASELINES if each in named)
        return Options(read_protocol(name, rest), chosen, losses, None if only is None else tuple(only))


class Explainability(Evaluator):
    """Neuron2Graph explanations of a sample of latents, scored on unseen text, against baselines."""

    name = "explainability"
    version = 2
    samples = ("by_latent", "by_row", "not_scored", "tokens_of_examples")
    description = "Precision, recall and loss of n-gram explanations (Neuron2Graph) for a sample of latents"

    @classmethod
    def check(cls, setup: Setup) -> None:
        """Raise ``SaebenchError`` where options are invalid, or the corpus is too short or has too few rows."""
        options = Options.read(setup.options)
        rows, context = setup.corpus.tokens.shape
        window, name = options.protocol.window, options.protocol.definition
        if context < window:
            raise SaebenchError(
                f"The corpus's rows have {context} tokens, but explain/{name}.toml uses windows "
                f"of {window}: use --context {window} or more."
            )
        if rows < 4:
            raise SaebenchError(
                f"Explanations need rows for examples and rows for scoring, but there are {rows}: use more --tokens."
            )
        if options.only is not None and not all(0 <= each < setup.sae.n_latents for each in options.only):
            raise SaebenchError(f"The explainability option only names latents beyond 0 to {setup.sae.n_latents - 1}.")
        find_padding(setup.cut.model.tokenizer, options.protocol.padding)

    @classmethod
    def definitions(cls, setup: Setup) -> dict[str, str]:
        """The protocol's file."""
        protocol = Options.read(setup.options).protocol
        return {f"explain/{protocol.definition}": protocol.sha256}

    def compute(self) -> EvaluatorResult:
        """Sample, explain, score, simulate."""
        setup, options = self.setup, Options.read(self.setup.options)
        protocol = options.protocol
        source = setup.shared.once("hook inputs of the text", lambda: HookInputs(setup.cut, setup.corpus))
        ground = StudyInputs.of(source, protocol, setup.seed, setup.progress)
        moments = InputMoments(setup.sae)
        sample = sample_activations(ground, setup.sae, [moments.update])
        main = study(ground, setup.sae, sample, choose(ground, sample, protocol.latents, options.only))
        details: dict[str, Any] = {
            "latents": latent_records(main, setup.cut.model.tokenizer, protocol.examples_shown),
            "not_scored": self._not_scored(main, options),
            "cost": {"readings": main.readings, "texts": main.texts, "tokens": main.tokens},
            "baselines": {},
            "tokens_of_examples": main.sample.tokens,
            "by_latent": {"own": scored_latents(main.chosen, main.scores, main)},
        }
        for name in options.baselines:
            other, scores = self._baseline(name, ground, main, moments)
            details["by_latent"][name] = scored_latents(other.chosen, scores)
            details["baselines"][name] = [
                {"latent": latent, **score.record()} for latent, score in zip(other.chosen.latents, scores, strict=True)
            ]
        if options.losses and main.tries:
            rows = ground.unseen[: protocol.loss_rows]
            sums = explained_losses(setup.cut, setup.sae, setup.corpus, rows, main.tries, ground.first, setup.progress)
            details["by_row"] = {"explained": len(main.tries), **sums.record()}
        padding = find_padding(setup.cut.model.tokenizer, protocol.padding)._asdict()
        settings = {"protocol": protocol.record(), "baselines": list(options.baselines), "padding": padding}
        if starts_with_bos(setup.corpus, protocol):
            settings["bos"] = "in front of every text tried"
        metrics = metrics_of(details, options.baselines, setup.sae.n_latents, protocol.bootstrap, setup.seed)
        return self.result(metrics, details, settings)

    @classmethod
    def recomputed(cls, found: EvaluatorResult, measured: Measured) -> list[Metric]:
        """All metrics, from the scores by latent and the losses by row."""
        draws, baselines = found.settings["protocol"]["bootstrap"], found.settings["baselines"]
        if type(draws) is not int or not 0 < draws <= 100_000 or not set(baselines) <= set(BASELINES):
            raise ValueError("the settings name no protocol")
        return metrics_of(found.details, baselines, measured.n_latents, draws, measured.seed)

    def _baseline(
        self, name: str, ground: StudyInputs, main: Study, moments: InputMoments
    ) -> tuple[Study, list[LatentScore]]:
        """A baseline's study and its scores."""
        if name == "unigram":
            tries = unigram_tries(main.examples)
            held_out, levels = main.held_out, main.levels
            return main, score_tries(tries, main.unseen, held_out, ground.corpus.tokens, ground.first, levels)
        sae = self.setup.sae
        other = random_directions(sae, moments, ground.seed) if name == "random" else channels(sae, moments)
        sample = sample_activations(ground, other)
        found = study(ground, other, sample, choose(ground, sample, ground.protocol.baseline_latents))
        return found, found.scores

    def _not_scored(self, of: Study, options: Options) -> dict[str, Any]:
        """How many latents could not be scored and why; by number where the user named them."""
        counts, least = of.sample.counts, options.protocol.least
        found: dict[str, Any] = {
            "dead": int((counts == 0).sum()),
            "too_few_activations": int(((counts > 0) & (counts < least)).sum()),
            "needed": least,
        }
        if options.only is not None:
            found["asked_for"] = {str(each): int(counts[each]) for each in options.only if int(counts[each]) < least}
        return found
