"""Suites pin what is evaluated, and results say which they are of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import saebench
from saebench.checkpoints.convert import convert
from saebench.cli import app
from saebench.comparison.benchmark import differing_fields
from saebench.errors import SaebenchError
from saebench.evaluation.settings import EvaluationSettings
from saebench.evaluators.base import Setup, find_evaluators, installed_evaluators
from saebench.evaluators.sparse_probing import SparseProbing
from saebench.lm import LanguageModel
from saebench.results import read_result
from saebench.sae import SparseAutoencoder
from saebench.suites import SUITES, Suite, read_suite
from saebench.tasks import find_tasks
from saebench.tasks.classes import find_class_sets
from saebench.text.corpus import TokenCorpus
from tests.conftest import FIXTURES, HOOK

MODEL = str(FIXTURES / "saelens_evals" / "model")


@pytest.mark.parametrize("name", SUITES)
def test_settings_of_a_suite_are_valid(name: str, tiny_model: LanguageModel, tiny_corpus: TokenCorpus) -> None:
    suite = read_suite(name)
    settings = EvaluationSettings(**suite.apply({}))
    assert settings.suite.startswith(f"{name} {suite.version} (") and settings.dtype == "float32"
    changed = Suite(name, suite.version, {**suite.settings, "tokens": 1})
    assert changed.label != suite.label  # also where somebody forgot to raise the version
    found = find_evaluators(settings.evaluators)
    assert set(settings.options) <= set(found)
    setup = Setup(None, tiny_model.cut(HOOK), tiny_corpus, None)  # type: ignore[arg-type]
    for evaluator, options in settings.options.items():
        if evaluator == "probe_loss":
            tasks = str(options["tasks"])
            assert {task.name for task in find_tasks(tasks)} == set(tasks.split(",")) and tasks.count(",") == 23
        elif evaluator == "sparse_probing":
            assert len(find_class_sets(str(options["tasks"]))) == 2
            assert set(options) <= set(SparseProbing.option_names)
        elif evaluator not in ("explainability", "tpp", "absorption"):
            from dataclasses import replace

            assert found[evaluator].read_options(replace(setup, options=dict(options))).items() >= options.items()


def test_two_suites_have_every_built_in_evaluator_that_needs_nothing_else() -> None:
    own = {name for name, each in installed_evaluators().items() if each.__module__.startswith("saebench.")}
    needs_more = {"scr", "ravel", "unlearning", "autointerp"}  # data, a model that knows answers, an endpoint
    named = [set(read_suite(name).settings["evaluators"]) for name in ("standard", "saebench")]
    assert named[0] | named[1] == own - needs_more and not named[0] & named[1]


def test_a_suite_decides_and_is_recorded(text: Path, tmp_path: Path, make_sae: Callable[..., SparseAutoencoder]) -> None:
    convert(make_sae(), tmp_path / "sae", "saebench")
    command = ["evaluate", str(tmp_path / "sae"), "--model", MODEL, "--hook", HOOK, "--corpus", str(text)]
    done = CliRunner().invoke(app, [*command, "--suite", "quick", "--out", str(tmp_path / "quick.json")])
    assert done.exit_code == 0, done.output
    result = read_result(tmp_path / "quick.json")
    label = read_suite("quick").label
    assert result.settings["suite"] == label and set(result.controls) == {"random"}
    assert list(result.evaluators) == ["reconstruction", "downstream", "dictionary"]
    for flags in (["--tokens", "128"], ["--evaluators", "dictionary"], ["--seed", "0"], ["--option", "ablation.tokens=3"]):
        refused = CliRunner().invoke(app, [*command, "--suite", "standard", *flags])
        assert isinstance(refused.exception, SaebenchError)
        assert "The suite standard pins" in str(refused.exception) and flags[0].strip("-")[:6] in str(refused.exception)
    with pytest.raises(SaebenchError, match="no suite 'fast'; there are: quick, standard, full"):
        saebench.evaluate(make_sae(), suite="fast")
    again = saebench.evaluate(
        str(tmp_path / "sae"), model=MODEL, hook=HOOK, corpus=str(text), context=128, tokens=4096, dtype="float32",
        evaluators=["reconstruction"], progress=False,
    )  # fmt: skip
    assert differing_fields([result, again.result]) == {}
    other = result.model_copy(update={"settings": result.settings | {"suite": "quick 2"}})
    assert differing_fields([result, other]) == {"settings.suite": [label, "quick 2"]}
