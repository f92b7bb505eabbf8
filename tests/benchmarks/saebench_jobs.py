"""The same evaluation of the same autoencoders by SAEBench 0.6's own runner and by ours.

SmolLM2-135M at layer 15. ``SAEBENCH_SAES`` names autoencoders (with commas), ``SAEBENCH_DATA`` a folder with
``ag_news/test.jsonl`` and ``europarl/*.jsonl``, ``SAEBENCH_TEXT`` a text for core.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import save_file
from torch import Tensor

import saebench
from saebench import checkpoints
from saebench.checkpoints.convert import save_saelens
from saebench.evaluators.absorption import _probes
from saebench.evaluators.concepts.base import read_concept_protocol
from saebench.evaluators.concepts.effects import together
from saebench.evaluators.concepts.scr import pairs_of_classes
from saebench.evaluators.first_letter.probes import fit_sparse
from saebench.evaluators.first_letter.protocol import read_first_letter_protocol
from saebench.evaluators.first_letter.words import LETTERS, _prompts, first_letter, letter_data, vocabulary_words
from saebench.lm import LanguageModel
from saebench.lm.embedded import embedded_model_folder
from saebench.probing.class_texts import Unit, prepared_classes
from saebench.probing.linear import Dense, fit_linear
from saebench.probing.pooled import pooled_texts
from saebench.probing.values import Activations
from saebench.progress import Progress
from saebench.results import EvaluatorResult
from saebench.sae import SparseAutoencoder
from saebench.tasks.classes import PARTS, find_class_sets
from saebench.text.corpus import TokenCorpus, load_corpus
from tests.benchmarks.reader import reader
from tests.benchmarks.saebench_asking import (
    PAIR,
    ROW,
    Asking,
    a_small_model_will_do,
    entities_folder,
    entity_files,
    given_pairs,
    unlearning_files,
    without_template,
    written_pairs,
)
from tests.benchmarks.table import run_peer

HOOK = "blocks.15.hook_resid_post"
SPECIAL = 17
"""SmolLM2's special tokens have lower numbers; SAEBench leaves some of them out, in another way than ours."""
SEED = 0
QUADRANTS = {
    "first": ("professor / nurse", "nurse_data_only"), "second": ("male / female", "female_data_only"),
    "biased": ("male_professor / female_nurse", "female_nurse_data_only"),
}  # fmt: skip
"""SAEBench's names of the two sides of scr's problems, whatever the classes are."""


@dataclass(frozen=True)
class Sizes:
    """Of the samples.

    Attributes:
        sets: of classes.
        pairs: the set of pairs of classes, for scr.
        train: texts of a class that probes are trained on; for scr, of a class with one value of the second attribute.
        test: as many that they are tested on.
        words: for absorption.
        rows: of 128 tokens, for core.
    """

    sets: str = "ag_news"
    pairs: str = "reviews_by_subject"
    train: int = 40
    test: int = 20
    words: int = 600
    rows: int = 16


@dataclass(frozen=True)
class Job:
    """An evaluation of some autoencoders by both.

    Attributes:
        evaluation: ``core``, ``sparse_probing``, ``scr``, ``tpp``, ``absorption``, ``ravel``, ``unlearning`` or
            ``autointerp``.
        saes: folders by name.
        sizes: of the samples.
        threads: of torch, on both sides.
        padded: whether SAEBench pads texts to 128 tokens, as it does, or to the length of the longest.
        stop: the number of layers that SAEBench computes for absorption, where it would compute all; 0 for all.
        letters: SAEBench's bar for absorption: the F1 of a letter's probe, and how many letters reach it.
        asking: sizes of ravel, unlearning and autointerp.
        cities: the data folder of ravel.
        url: of autointerp's reader.
    """

    evaluation: str
    saes: dict[str, Path]
    sizes: Sizes = field(default_factory=Sizes)
    threads: int = 1
    padded: bool = True
    stop: int = 0
    letters: tuple[float, int] = (0.0, 1)
    asking: Asking = field(default_factory=Asking)
    cities: Path | None = None
    url: str = ""

    @property
    def data_dir(self) -> Path:
        """The folder with the sets of classes, or ravel's."""
        return self.cities or Path(os.environ["SAEBENCH_DATA"])

    def options(self) -> dict[str, Any]:
        """Ours, of the evaluator."""
        sizes = self.sizes
        by_evaluation: dict[str, dict[str, Any]] = {
            "core": {},
            "sparse_probing": {"tasks": sizes.sets, "train": sizes.train, "test": sizes.test},
            "scr": {"tasks": sizes.pairs, "train": 4 * sizes.train, "test": 4 * sizes.test},
            "tpp": {"tasks": sizes.sets, "train": 2 * sizes.train, "test": 2 * sizes.test},
            "absorption": {"words": sizes.words},
            "ravel": {"pairs": self.asking.pairs},
            "unlearning": {
                "pair": PAIR, "questions": self.asking.questions, "rows": self.asking.rows, "context": ROW,
            },
            "autointerp": {"url": self.url, "model": "reader", "latents": self.asking.latents},
        }  # fmt: skip
        return by_evaluation[self.evaluation]

    def units(self) -> dict[str, Unit]:
        """The sets of classes, or for scr the pairs of classes."""
        if self.evaluation == "scr":
            options = self.options()
            return pairs_of_classes(
                find_class_sets(options["tasks"])[0], options["train"], options["test"], SEED, self.data_dir
            )
        sizes = (2 * self.sizes.train, 2 * self.sizes.test)
        return {each.name: prepared_classes(each, *sizes, SEED, self.data_dir) for each in find_class_sets(self.sizes.sets)}


def given_saes() -> dict[str, Path]:
    """Those of ``SAEBENCH_SAES``, by folder name."""
    return {Path(each).name: Path(each) for each in os.environ["SAEBENCH_SAES"].split(",")}


def is_ready() -> bool:
    """Whether the environment names what is compared."""
    return all(os.environ.get(name) for name in ("SAEBENCH_SAES", "SAEBENCH_DATA", "SAEBENCH_TEXT"))


def core_rows(model: LanguageModel, rows: int) -> TokenCorpus:
    """Rows of the text without special tokens; every position counts."""
    text = load_corpus(
        os.environ["SAEBENCH_TEXT"], model.tokenizer, context=ROW, tokens=4 * rows * ROW, bos="none", exclude=False
    )
    plain = (text.tokens >= SPECIAL).all(dim=1).nonzero().squeeze(1)[:rows]
    return replace(
        text, tokens=text.tokens[plain], excluded=text.excluded[plain], loss_mask=text.loss_mask[plain],
        tokens_requested=None,
    )  # fmt: skip


def run_ours(job: Job) -> tuple[dict[str, EvaluatorResult], float]:
    """``(results, processor seconds)``, loading the model included; the cache is that of ``SAEBENCH_CACHE``."""
    torch.set_num_threads(job.threads)
    start = time.process_time()
    model = LanguageModel.load("smollm2", dtype="float32")
    whole = job.evaluation in ("core", "autointerp")  # it reads the text itself
    corpus = core_rows(model, job.asking.text // ROW if job.evaluation == "autointerp" else job.sizes.rows)
    settings: dict[str, Any] = {"exclude": False} if whole else {"data_dir": job.data_dir}
    if not whole:
        corpus = replace(corpus, bos="none" if job.evaluation == "ravel" else "row")
    if job.evaluation == "unlearning":
        without_template(model)
    cards = saebench.evaluate(
        [str(each) for each in job.saes.values()], model=model, hook=HOOK, corpus=corpus, evaluators=[job.evaluation],
        options={job.evaluation: job.options()}, seed=SEED, progress=False, **settings,
    )  # fmt: skip
    seconds = time.process_time() - start
    return {name: card.result.evaluators[job.evaluation] for name, card in zip(job.saes, cards, strict=True)}, seconds


@contextmanager
def comparable(job: Job, folder: Path) -> Iterator[Job]:
    """The job with what it asks about; ours answers as SAEBench does, whatever the model knows and a random start decides.

    Absorption is scored however few letters the model knows.
    """
    protocol = read_first_letter_protocol()
    least = protocol.least.model_copy(update={"letters": 1, "f1": 0.0})
    changed = protocol.model_copy(update={"least": least})
    with ExitStack() as stack:
        stack.enter_context(patch("saebench.evaluators.absorption.read_first_letter_protocol", lambda: changed))
        stack.enter_context(patch("saebench.evaluators.absorption.MOST_BY_START", 1.0))
        stack.enter_context(a_small_model_will_do(job.asking))
        if job.evaluation == "ravel":
            job = replace(job, cities=entities_folder(job.data_dir, job.asking, folder))
        if job.evaluation == "autointerp":
            job = replace(job, url=stack.enter_context(reader()))
        yield job


def run_theirs(job: Job, folder: Path, draws: str) -> dict[str, Any]:
    """``found`` (metrics by autoencoder), ``processor`` seconds until each is finished, ``seconds`` and ``peak`` bytes.

    Args:
        job: the job.
        folder: what ``prepare`` wrote.
        draws: ``own``, or ``given`` for our random choices and probes.

    Raises:
        RuntimeError: its environment is absent.
    """
    printed = run_peer("saebench", "peer_saebench_runner.py", str(folder), draws)
    if printed is None:
        raise RuntimeError("SAEBench's environment is absent")
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found


def prepare(job: Job, folder: Path, given: bool) -> None:
    """Write what SAEBench's runner reads: texts, and with ``given`` our random choices and probes too."""
    folder.mkdir(parents=True)
    saes = {}
    for name, path in job.saes.items():
        sae = checkpoints.load(path)
        assert isinstance(sae, SparseAutoencoder)
        saes[name] = str(save_saelens(sae, folder / "saes" / name))
    settings = {
        "evaluation": job.evaluation, "saes": saes, "model": str(embedded_model_folder()), "threads": job.threads,
        "stop": job.stop, "letters": job.letters,
        "problems": [positive for positive, _ in QUADRANTS.values()] if job.evaluation == "scr" else [],
        "rows": job.sizes.rows, "batches": 1, "variance_batches": 1, "k": [1, 2, 5, 20, 50],
        "pairs": job.asking.pairs, "batch": job.asking.batch, "latents": job.asking.latents, "url": job.url,
    }  # fmt: skip
    model = LanguageModel.load("smollm2", dtype="float32")
    tensors: dict[str, Tensor] = {"none": torch.zeros(1)}
    texts: dict[str, Any] = {}
    if job.evaluation == "core":
        tensors = {"tokens": core_rows(model, job.sizes.rows).tokens}
    elif job.evaluation == "autointerp":
        tensors = {"tokens": core_rows(model, job.asking.text // ROW).tokens}
    elif job.evaluation == "unlearning":
        texts, tensors = unlearning_files(job.data_dir, job.asking, without_template(model).cut(HOOK), SEED)
    elif job.evaluation == "ravel":
        texts = {"files": entity_files(job.data_dir)}
        texts |= written_pairs(*given_pairs(job.data_dir, job.asking, model.cut(HOOK), SEED)) if given else {}
    elif job.evaluation == "absorption":
        texts, settings["train"] = _words(job, model, at_least=0 if given else 8)
        tensors |= _letter_probes(job, model) if given else {}
    else:
        units = job.units()
        texts = {name: (_quadrants if job.evaluation == "scr" else _texts)(unit) for name, unit in units.items()}
        ids = model.tokenizer([text for unit in units.values() for text in unit.texts])["input_ids"]
        settings["context"] = ROW if job.padded else min(ROW, max(map(len, ids)) + 1)
        for name, unit in units.items() if given else ():
            if job.evaluation != "scr":  # there SAEBench takes all texts of a pair
                tensors |= _problems(name, unit)
            if job.evaluation in ("scr", "tpp"):
                tensors |= _concept_probes(name, unit, model)
    (folder / "job.json").write_text(json.dumps(settings))
    (folder / "texts.json").write_text(json.dumps(texts))
    save_file({name: each.contiguous() for name, each in tensors.items()}, folder / "data.safetensors")


def _texts(unit: Unit) -> dict[str, dict[str, list[str]]]:
    """By part and class; a unit has its training texts first, class by class."""
    found: dict[str, dict[str, list[str]]] = {}
    start = 0
    for part in PARTS:
        found[part] = {}
        for name in unit.problems:
            stop = start + unit.record["texts_of_a_class"][part]
            found[part][name] = unit.texts[start:stop]
            start = stop
    return found


def _quadrants(unit: Unit) -> dict[str, dict[str, list[str]]]:
    """By part and SAEBench's name of a problem: the texts of label 1 and those of label 0."""
    found: dict[str, dict[str, list[str]]] = {part: {} for part in PARTS}
    for name, (positive, negative) in QUADRANTS.items():
        problem = unit.problems[name]
        for part, split in (("train", problem.train), ("test", problem.test)):
            for key, label in ((positive, 1), (negative, 0)):
                found[part][key] = [unit.texts[row] for row in split.rows[split.labels == label].tolist()]
    return found


def _problems(task: str, unit: Unit) -> dict[str, Tensor]:
    first = len(unit.problems) * unit.record["texts_of_a_class"]["train"]
    found: dict[str, Tensor] = {}
    for name, problem in unit.problems.items():
        for part, split, offset in (("train", problem.train, 0), ("test", problem.test, first)):
            found |= {f"{task}.{name}.{part}.rows": split.rows - offset, f"{task}.{name}.{part}.labels": split.labels}
    return found


def _concept_probes(task: str, unit: Unit, model: LanguageModel) -> dict[str, Tensor]:
    protocol, cut = read_concept_protocol(), model.cut(HOOK)
    pooled = pooled_texts(cut, unit.texts, protocol.text.with_bos(True), "mean", True, None, lambda amount: None)
    splits = together([each.train for each in unit.problems.values()])
    fitted = fit_linear(Dense(pooled.activations), splits, protocol.probe, SEED)
    return {f"{task}.weight": fitted.weight, f"{task}.bias": fitted.bias}


def word_ids(most: int, tokenizer: Any) -> tuple[list[str], list[list[int] | None], int]:
    """The words that absorption uses, each one's prompt up to it, and how many of them probes are fitted to."""
    protocol = read_first_letter_protocol()
    generator = torch.Generator().manual_seed(SEED)
    vocabulary = vocabulary_words(tokenizer)
    drawn = [vocabulary[index] for index in torch.randperm(len(vocabulary), generator=generator)[:most]]
    train = int(len(drawn) * protocol.words.train)
    ids = [each for part in (drawn[:train], drawn[train:]) for each in _prompts(part, protocol.prompt, tokenizer, generator)]
    return drawn, ids, train


def _words(job: Job, model: LanguageModel, at_least: int) -> tuple[dict[str, list[str]], int]:
    """Our words with their prompts as text, and how many of them probes are fitted to.

    Where SAEBench draws the words that its probes are fitted to, some are replaced, so that there are ``at_least`` of each
    letter: without one of them it stops with an error.
    """
    drawn, ids, train = word_ids(job.sizes.words, model.tokenizer)
    if at_least:
        vocabulary = vocabulary_words(model.tokenizer)
        rare = [[each for each in vocabulary if first_letter(each) == letter][:at_least] for letter in LETTERS]
        some = list(dict.fromkeys(word for words in rare for word in words))
        return {"words": [*some, *(each for each in drawn if each not in some)][: len(drawn)], "prompts": []}, 0
    after = read_first_letter_protocol().prompt.template.split("{word}")[1]
    kept = [(index, each) for index, each in enumerate(ids) if each is not None]
    prompts = [model.tokenizer.decode(each) + after for _, each in kept]
    return {"words": [drawn[index] for index, _ in kept], "prompts": prompts}, sum(index < train for index, _ in kept)


def _letter_probes(job: Job, model: LanguageModel) -> dict[str, Tensor]:
    protocol = read_first_letter_protocol()
    data = letter_data(model.cut(HOOK), protocol, job.sizes.words, True, SEED, Progress(shown=False))
    dense = _probes(data, protocol, SEED)
    found = {"letters.weight": dense.weight.T, "letters.bias": dense.bias}
    for name, path in job.saes.items():
        sae = checkpoints.load(path)
        code = Activations(sae, "last").encode(data.activations[: data.train])
        fitted = fit_sparse(code, data.letters[: data.train], len(LETTERS), protocol.selection, SEED)
        found |= {f"{name}.weight": fitted.weight.T, f"{name}.bias": fitted.bias}
    return found
