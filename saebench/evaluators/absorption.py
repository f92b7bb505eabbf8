"""Feature absorption: does the latent of a word's first letter fall silent where a more specific latent stands in for it?

Source: Chanin et al. 2024, "A is for absorption", arXiv 2409.14507, in SAEBench's form (arXiv 2503.09532).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from saebench.errors import SaebenchError
from saebench.evaluators.base import Evaluator, Measured, Setup
from saebench.evaluators.first_letter.probes import (
    MainLatents,
    Probes,
    f1_and_recall,
    fit_dense,
    fit_sparse,
    main_latents,
)
from saebench.evaluators.first_letter.protocol import NAME, FirstLetterProtocol, read_first_letter_protocol
from saebench.evaluators.first_letter.scores import absorption
from saebench.evaluators.first_letter.words import LETTERS, LetterData, letter_data
from saebench.evaluators.options import read_options
from saebench.probing.memory import tensors_cached_or_computed
from saebench.probing.values import Activations
from saebench.results import EvaluatorResult, Metric
from saebench.results.metrics import metric
from saebench.results.statistics import mean_estimate, read_columns, rounded
from saebench.sae import SparseAutoencoder, SparseLatents

FEWEST_WORDS = 260
"""Ten for each letter: with fewer there is nothing to fit a probe to."""
MOST_BY_START = 0.5
"""Share of letters whose best latent may depend on the random start of the probe that selects it.

A step of Adam moves a weight by up to the learning rate whatever the size of its gradient, and a small vocabulary gives one
step an epoch: a letter's latent and those of its single words then move equally far, and the start decides between them. The
metrics are means over letters; where most of these are decided so, they describe the start and not the autoencoder.
"""


class Absorption(Evaluator):
    """First-letter absorption, full and fractional, with feature splitting."""

    name = "absorption"
    version = 1
    description = "First-letter absorption: full, fractional, and the latents into which a letter is split"
    needs_weights = True
    samples = ("by_letter", "words")

    @classmethod
    def read_options(cls, setup: Setup) -> dict[str, int]:
        """The option ``words``: how many words of the vocabulary at most."""
        return read_options(cls.name, setup.options, {"words": read_first_letter_protocol().words.most})

    @classmethod
    def check(cls, setup: Setup) -> None:
        """Raise ``SaebenchError`` where the autoencoder does not write where it reads, besides the usual checks."""
        super().check(setup)
        if setup.cut.hook_in != setup.cut.hook_out or setup.cut.context is not None:
            raise SaebenchError(
                "The evaluator absorption compares latents with probes at one hook: it needs an autoencoder that writes "
                f"where it reads, but this one reads {setup.cut.hook_in} and writes {setup.cut.hook_out}."
            )

    @classmethod
    def definitions(cls, setup: Setup) -> dict[str, str]:
        """The protocol's file."""
        return {f"probes/{NAME}": read_first_letter_protocol().sha256}

    def compute(self) -> EvaluatorResult:
        """Fit probes (once for all autoencoders of the hook), find the letters' latents, score held-out words."""
        setup, protocol = self.setup, read_first_letter_protocol()
        bos = setup.corpus.bos != "none" and setup.cut.model.tokenizer.bos_token_id is not None
        words = self.options["words"]
        data = setup.shared.once(
            f"first letter {words} {setup.seed} {bos}",
            lambda: letter_data(setup.cut, protocol, words, bos, setup.seed, setup.progress),
        )
        details: dict[str, Any] = {
            "words": {"fitted": data.train, "held_out": len(data.words) - data.train, "left_out": data.left_out},
            "by_letter": {name: [] for name in COLUMNS},
            "latents": {},
        }
        if len(data.words) >= FEWEST_WORDS:
            probes = setup.shared.once(
                f"letter probes {words} {setup.seed} {bos}", lambda: _probes(data, protocol, setup.seed)
            )
            self._score(data, probes, protocol, details)
        settings = {"protocol": protocol.model_dump(mode="json", exclude={"sha256"}), "bos": bos, "words": words}
        return self.result(metrics_of(details, protocol), details, settings)

    @classmethod
    def recomputed(cls, found: EvaluatorResult, measured: Measured) -> list[Metric]:
        """All metrics, from the numbers of the letters."""
        return metrics_of(found.details, read_first_letter_protocol())

    def _score(self, data: LetterData, probes: Probes, protocol: FirstLetterProtocol, details: dict[str, Any]) -> None:
        sae = self.setup.sae
        assert isinstance(sae, SparseAutoencoder)
        train, test = slice(0, data.train), slice(data.train, len(data.words))
        scores, letters = probes.scores(data.activations[test]), data.letters[test]
        counted = [number for number in range(len(LETTERS)) if _has_both(data, number)]
        f1 = {number: f1_and_recall(scores[:, number] > 0, letters == number)[0] for number in counted}
        usable = [number for number in counted if f1[number] > protocol.least.f1]
        source = Activations(sae, "last")
        code, decoder = source.encode(data.activations), sae.W_dec.float().cpu()
        order: torch.Tensor | None = None
        stable: list[bool] = []
        if len(usable) >= protocol.least.letters:
            order, stable = _candidates(code.rows(train), data.letters[train], protocol, self.setup.seed)
        columns = details["by_letter"]
        with self.setup.progress.task("Scoring letters", total=len(counted), unit="letters") as advance:
            for number in counted:
                row: dict[str, float | int | None] = dict.fromkeys(COLUMNS)
                row |= {"letter": number, "probe_f1": rounded(f1[number])}
                if order is not None and number in usable:
                    values = source.chosen(order[number], data.activations, data.letters, len(data.words)).T
                    main = main_latents(
                        order[number], (values[train], data.letters[train] == number),
                        (values[test], letters == number), protocol.k_sparse,
                    )  # fmt: skip
                    chosen = (scores[:, number] > 0) & (letters == number)
                    details["latents"][LETTERS[number]] = main.latents
                    row["stable"] = int(stable[number])
                    row |= self._letter(data, code.rows(test), chosen, probes.weight[:, number], decoder, main, protocol)
                for name, value in row.items():
                    columns[name].append(value)
                advance(1)

    def _letter(
        self, data: LetterData, code: SparseLatents, chosen: torch.Tensor, probe: torch.Tensor, decoder: torch.Tensor,
        main: MainLatents, protocol: FirstLetterProtocol,
    ) -> dict[str, float | int | None]:  # fmt: skip
        """A letter's row: absorption on the held-out words that its probe gets right (``chosen``, ``[held out]`` bool)."""
        activations = data.activations[data.train :][chosen]
        found = absorption(code.rows(chosen), activations, probe, decoder, main.latents, protocol.absorption)
        return {
            "words": int(chosen.sum()), "main_latents": len(main.latents), "main_f1": rounded(main.f1),
            "main_recall": rounded(main.recall), "fraction": rounded(float(found.fraction.double().mean())),
            "full": rounded(float(found.full.double().mean())),
        }  # fmt: skip


COLUMNS = ("letter", "probe_f1", "words", "main_latents", "main_f1", "main_recall", "fraction", "full", "stable")
_METRICS = {
    "absorption_fraction": ("fraction", "1", "lower", "Share of the main latents' work that other latents do"),
    "full_absorption": ("full", "1", "lower", "Share of words on which all main latents are silent and one other stands in"),
    "main_latents": ("main_latents", "latents", "lower", "Latents into which a letter is split, the best one included"),
    "main_latents_f1": ("main_f1", "1", "higher", "F1 of the probe on these latents; low means nothing could be absorbed"),
    "main_latents_recall": ("main_recall", "1", "higher", "Recall of the probe on these latents"),
}  # fmt: skip


def metrics_of(details: Mapping[str, Any], protocol: FirstLetterProtocol) -> list[Metric]:
    """All metrics from the columns by letter.

    Raises:
        ValueError: these are not as ``Absorption`` writes them.
    """
    columns = details["by_letter"]
    f1 = read_columns(columns, ["probe_f1"]).flatten()
    usable = [index for index, value in enumerate(f1.tolist()) if value > protocol.least.f1]
    enough = len(usable) >= protocol.least.letters
    reason = (
        f"the language model is too small for this task, or the hook too early: probes of {len(usable)} of 26 letters have "
        f"an F1 above {protocol.least.f1:g}, and {protocol.least.letters} are needed"
        if f1.numel()
        else f"the tokenizer has only {details['words']['fitted'] + details['words']['held_out']} words of letters alone, "
        f"and {FEWEST_WORDS} are needed"
    )
    by_start = _by_start(columns, usable) if enough else 0
    if by_start > MOST_BY_START * len(usable):
        enough, reason = False, _start_decides(by_start, len(usable), details["words"]["fitted"], protocol)
    found = [
        metric("usable_letters", float(len(usable)), unit="letters", direction="none", n=f1.numel(), n_unit="letters",
               description=f"Letters whose probe on activations has an F1 above {protocol.least.f1:g}"),
        metric("probe_f1", mean_estimate(f1), unit="1", direction="none", n=f1.numel(), n_unit="letters",
               description="Mean F1 of the probes on activations, all letters", reason=reason),
    ]  # fmt: skip
    for name, (column, unit, direction, words) in _METRICS.items():
        values = read_columns({column: [columns[column][index] for index in usable]}, [column]) if enough else None
        found.append(
            metric(
                name, None if values is None else mean_estimate(values.flatten()), unit=unit,
                direction="higher" if direction == "higher" else "lower", n=len(usable) if enough else 0, n_unit="letters",
                description=f"{words}; mean over letters", reason=reason,
            )
        )  # fmt: skip
    return found


def _by_start(columns: Mapping[str, Any], usable: list[int]) -> int:
    """How many of the ``usable`` letters have a best latent that the random start decides; 0 in older results."""
    if "stable" not in columns:
        return 0
    return len(usable) - int(read_columns({"stable": [columns["stable"][index] for index in usable]}, ["stable"]).sum())


def _start_decides(count: int, letters: int, words: int, protocol: FirstLetterProtocol) -> str:
    """The reason why nothing is known of a letter's latents."""
    steps = protocol.selection.epochs * -(-words // protocol.selection.batch)
    return (
        f"the probe that selects a letter's latents could not be fitted: in {steps} steps of Adam on {words} words it "
        f"leaves the choice of the best one to its random start for {count} of {letters} letters; more words are needed"
    )


def _probes(data: LetterData, protocol: FirstLetterProtocol, seed: int) -> Probes:
    """The probes on activations, or those that an earlier run cached."""
    key = None if data.key is None else {"activations": data.key, "protocol": protocol.sha256, "seed": seed}

    def compute() -> dict[str, torch.Tensor]:
        train = slice(0, data.train)
        fitted = fit_dense(data.activations[train], data.letters[train], len(LETTERS), protocol.probe, seed)
        return {"weight": fitted.weight, "bias": fitted.bias}

    tensors, _ = tensors_cached_or_computed("letter-probes", key, compute)
    return Probes(tensors["weight"], tensors["bias"])


def _candidates(
    code: SparseLatents, letters: torch.Tensor, protocol: FirstLetterProtocol, seed: int
) -> tuple[torch.Tensor, list[bool]]:
    """The latents of largest weight for each letter in a probe with an L1 penalty on all latents, ``[letters, k]``.

    And for each letter whether the best one is the same from the opposite of the probe's random start.
    """
    fitted, mirrored = (fit_sparse(code, letters, len(LETTERS), protocol.selection, seed, each) for each in (False, True))
    order = fitted.weight.T.topk(min(protocol.k_sparse.most, code.n_latents), dim=1).indices
    return order, (order[:, 0] == mirrored.weight.argmax(dim=0)).tolist()


def _has_both(data: LetterData, number: int) -> bool:
    """Whether the letter is among the words that probes are fitted to and among the held-out ones."""
    has = data.letters == number
    return bool(has[: data.train].any()) and bool(has[data.train :].any())
