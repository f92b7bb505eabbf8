"""Explaining and scoring from end to end, with readers whose scores are known."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner
from typer.testing import Result as Ran

from saebench.checkpoints import save_native
from saebench.cli import app
from saebench.errors import SaebenchError
from saebench.explaining.examples.folder import ActivatingExamples
from saebench.explaining.llm.cache import AnswerCache
from saebench.explaining.llm.client import ChatClient
from saebench.explaining.llm.endpoint import Endpoint
from saebench.explaining.llm.limits import Limits
from saebench.explaining.llm.plan import other_latent
from saebench.explaining.llm.protocol import load_protocol
from saebench.explaining.llm.report import EVALUATOR, evaluator_result
from saebench.explaining.llm.run import ExplanationRun
from saebench.lm import Cut, LanguageModel
from saebench.progress import Progress
from saebench.results import EvaluatorResult, read_result
from saebench.sae import SparseAutoencoder
from saebench.text.corpus import TokenCorpus
from tests.conftest import FIXTURES
from tests.explaining.llm.chat_server import Raw, Script, kind_of, knows_nothing, serve, understands_words
from tests.explaining.llm.word_latents import DEAD, EVERYWHERE, RARE, WORDS, planted_examples

Planted = tuple[SparseAutoencoder, Cut, TokenCorpus, ActivatingExamples]
ALL = range(WORDS)


@pytest.fixture(scope="module")
def planted(tiny_model: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return planted_examples(tiny_model, tmp_path_factory.mktemp("planted") / "examples")


@pytest.fixture
def run_with(planted: Planted, tmp_path: Path) -> Callable[..., EvaluatorResult]:
    sae, cut, corpus, examples = planted

    def run(answer: Script, scorer: Script | None = None, tests: list[str] | None = None, **changes: Any) -> EvaluatorResult:
        protocol, limits = load_protocol(tests), Limits(8, timeout=20.0, retries=1, first_wait=0.01)
        with serve(answer) as server, serve(scorer or answer) as other:
            clients = [
                ChatClient(
                    Endpoint(each.url, "m", role=role), protocol.sampling.made(), limits, AnswerCache(tmp_path / "answers")
                )
                for each, role in ((server, "explainer"), (other, "scorer"))
            ]
            for client in clients:
                client.check()
            run = ExplanationRun(examples, protocol, *clients, progress=Progress(False), **({"latents": ALL} | changes))
            run.find_inactive(sae, cut, corpus, 50)
            return evaluator_result(run, run.run())

    return run


def values(found: EvaluatorResult) -> dict[str, float | None]:
    return {name: metric.value for name, metric in found.metrics.items()}


def test_a_perfect_reader_scores_full_marks(run_with: Callable[..., EvaluatorResult]) -> None:
    found = run_with(understands_words)
    scores = values(found)
    for name in ("explained", "detection", "fuzzing", "intruder"):
        assert scores[name] == 1.0
    assert scores["simulation"] == pytest.approx(1.0, abs=1e-12)
    # another latent's explanation: its word is in a window or not, whatever this latent does
    assert abs((scores["detection_control"] or 0) - 0.5) < 0.1
    assert scores["fuzzing_control"] is not None and 0.4 < scores["fuzzing_control"] <= 0.5
    assert abs(scores["simulation_control"] or 0) < 0.1
    gain = found.metrics["detection_gain"]
    assert gain.value == pytest.approx(1.0 - (scores["detection_control"] or 0)) and gain.n == WORDS
    assert gain.interval is not None and gain.interval[0] > 0.3
    assert scores["unusable_answers"] == scores["unanswered"] == 0.0
    assert found.details["chance"] == {"detection": 0.5, "fuzzing": 0.5, "simulation": 0.0, "intruder": 0.2}
    one = found.details["latents"]["3"]
    assert one["explanation"] == "the word w13"
    assert one["scores"]["detection"] == one["scores"]["intruder"] == 1.0
    assert one["intervals"]["detection"][0] < 0.95 and one["intervals"]["detection"][1] == 1.0
    assert one["n"] == {"detection": 40, "detection_control": 40, "fuzzing": 40, "fuzzing_control": 40,
                        "simulation": 10, "simulation_control": 10, "intruder": 5}  # fmt: skip
    assert sorted(each["control"] for each in found.details["latents"].values()) == list(ALL)
    # an explanation, 8 + 8 + 10 questions by it and by the control's, 5 intruder trials, for each latent
    calls = found.details["calls"]
    assert calls["explainer"]["asked"] == WORDS and calls["scorer"]["asked"] == WORDS * (2 * 26 + 5)
    assert calls["scorer"]["cost"] is None and calls["scorer"]["prompt_tokens"] > 10_000


def test_a_reader_who_knows_nothing_scores_chance(run_with: Callable[..., EvaluatorResult]) -> None:
    found = run_with(knows_nothing)
    scores = values(found)
    assert scores["detection"] == scores["fuzzing"] == 0.5 and scores["simulation"] == 0.0
    intruder = [each["scores"]["intruder"] for each in found.details["latents"].values()]
    assert scores["intruder"] == pytest.approx(sum(intruder) / WORDS) and 0 <= sum(intruder) / WORDS < 0.6
    assert scores["detection_gain"] == scores["fuzzing_gain"] == scores["simulation_gain"] == 0.0


def test_a_reader_who_is_always_wrong_scores_nothing(run_with: Callable[..., EvaluatorResult]) -> None:
    def contrary(request: dict[str, Any]) -> str:
        answer = json.loads(understands_words(request))
        if "text_1" in answer:
            answer = {text: not verdict for text, verdict in answer.items()}
        if "activations" in answer:
            numbers = {each["token"] for each in answer["activations"]}
            count = request["messages"][1]["content"].count("\n") - 2
            answer["activations"] = [{"token": n, "activation": 10} for n in range(1, count + 1) if n not in numbers]
        return json.dumps(answer)

    scores = values(run_with(understands_words, contrary, tests=["detection", "fuzzing", "simulation"]))
    assert scores["detection"] == scores["fuzzing"] == 0.0
    assert scores["simulation"] == pytest.approx(-1.0, abs=1e-12) and "intruder" not in scores


def test_unusable_answers_are_counted_and_left_out(run_with: Callable[..., EvaluatorResult]) -> None:
    """Every other answer is unusable in one of many ways; what is left must score as before."""
    ways = ["I think so", '{"text_1": true}', '{"activations": [{"token": 99, "activation": 1}]}', '{"intruder": 6}',
            '{"activations": [{"token": 1, "activation": 11}]}', '{"text_1": "true"}',
            '{"activations": [{"token": 1, "activation": 1}, {"token": 1, "activation": 2}]}']  # fmt: skip
    lock, seen = threading.Lock(), [0]

    def unreliable(request: dict[str, Any]) -> str:
        with lock:
            seen[0] += 1
            number = seen[0]
        right = understands_words(request)
        if kind_of(request) in ("check", "explanation") or number % 2:
            return right
        fitting = json.loads(ways[1 + number % 6])
        same_form = fitting.keys() <= json.loads(right).keys()
        return json.dumps(fitting) if same_form else ways[0]

    found = run_with(understands_words, unreliable)
    assert values(found)["detection"] == values(found)["fuzzing"] == values(found)["intruder"] == 1.0
    unusable = found.metrics["unusable_answers"]
    assert (
        unusable.value is not None and unusable.n == WORDS * 58 and unusable.value * unusable.n == pytest.approx(171, abs=1)
    )
    counted = [sum(each["unusable"].values()) for each in found.details["latents"].values()]
    assert sum(counted) == pytest.approx(unusable.value * unusable.n)
    assert any(each["n"]["detection"] < 40 for each in found.details["latents"].values())


def test_latents_without_an_explanation_are_not_scored_as_zero(run_with: Callable[..., EvaluatorResult]) -> None:
    def reticent(request: dict[str, Any]) -> str | Raw:
        content = request["messages"][1]["content"]
        if kind_of(request) == "explanation" and "⟪w11⟫" in content:
            return "no idea"
        if kind_of(request) == "explanation" and "⟪w12⟫" in content:
            return Raw(500)
        return understands_words(request)

    found = run_with(reticent)
    latents = found.details["latents"]
    assert latents["1"]["reason"] == "the explainer's answer was unusable"
    assert latents["2"]["reason"] == "the explainer did not answer"
    assert latents["1"]["scores"] == latents["2"]["scores"] == {"intruder": 1.0}
    scores = found.metrics
    assert scores["explained"].value == pytest.approx(4 / 6) and scores["detection"].value == 1.0
    assert scores["detection"].n == 4 and scores["intruder"].n == 6
    assert scores["unanswered"].value == pytest.approx(1 / scores["unanswered"].n)
    assert found.details["calls"]["explainer"]["troubles"] == {"it answered 500, 2 times": 1}


def test_nothing_usable_is_null_with_a_reason(run_with: Callable[..., EvaluatorResult]) -> None:
    found = run_with(understands_words, lambda request: "hm")
    assert found.metrics["detection"].value is None and found.metrics["detection"].reason == "no latent has this score"
    assert found.details["latents"]["0"]["undefined"]["simulation"].startswith("no usable answers")


def test_one_latent_has_no_control(run_with: Callable[..., EvaluatorResult]) -> None:
    found = run_with(understands_words, latents=[4])
    assert found.metrics["detection"].value == 1.0 and found.metrics["detection"].interval is None
    assert found.metrics["detection_control"].value is None and found.details["latents"]["4"]["control"] is None


def test_the_same_seed_gives_the_same_result(run_with: Callable[..., EvaluatorResult]) -> None:
    first, second = run_with(understands_words, count=3, latents=None), run_with(understands_words, count=3, latents=None)
    assert first.metrics == second.metrics and first.details["latents"] == second.details["latents"]
    other = run_with(understands_words, count=3, latents=None, seed=1)
    assert other.details["latents"] != first.details["latents"]


def test_a_sample_leaves_out_what_cannot_be_explained(run_with: Callable[..., EvaluatorResult]) -> None:
    found = run_with(knows_nothing, latents=None)
    assert set(found.details["latents"]) == {str(latent) for latent in ALL}
    assert set(found.details["skipped"]) == {str(EVERYWHERE)}
    assert found.details["dictionary"] == {"latents": 9, "never_active": 1, "too_few_activations": 1}


def test_no_latent_with_enough_activations(run_with: Callable[..., EvaluatorResult]) -> None:
    with pytest.raises(SaebenchError, match="None of the latents has enough activations"):
        run_with(knows_nothing, latents=[DEAD, RARE])
    with pytest.raises(SaebenchError, match=r"^Every latent is active nearly everywhere"):
        run_with(knows_nothing, latents=[EVERYWHERE])
    with pytest.raises(SaebenchError, match="There is no latent 9"):
        run_with(knows_nothing, latents=[9])


def test_controls_are_other_latents() -> None:
    for seed in range(20):
        others = other_latent(range(7), seed)
        assert sorted(others) == sorted(others.values()) == list(range(7))
        assert all(latent != other for latent, other in others.items())
    assert other_latent([3], 0) == other_latent([], 0) == {}


def test_tests_that_do_not_exist() -> None:
    with pytest.raises(SaebenchError, match="There is no test 'detecting'"):
        load_protocol(["detecting"])


class Shell:
    """The command, with a checkpoint and its examples."""

    def __init__(self, planted: Planted, folder: Path) -> None:
        self.checkpoint, self.folder = save_native(planted[0], folder / "sae"), folder
        self.examples, self.out = planted[3].folder, folder / "result.json"

    def __call__(self, url: str, *more: str, say: str | None = None) -> Ran:
        model = FIXTURES / "saelens_evals" / "model"
        command = ["explain", self.checkpoint, "--examples", self.examples, "--explainer-url", url, "--explainer-model", "m"]
        command += ["--model", model, "--answers", self.folder / "answers", "-o", self.out]
        return CliRunner().invoke(app, [*map(str, command), "--latents", "0,1,2", "--retries", "1", *more], input=say)


@pytest.fixture
def shell(planted: Planted, tmp_path: Path) -> Shell:
    found = Shell(planted, tmp_path)
    manifest = json.loads((found.examples / "manifest.json").read_text())
    from saebench import checkpoints

    manifest["sae"]["weights_sha256"] = checkpoints.load(found.checkpoint).info.weights_sha256
    (found.examples / "manifest.json").write_text(json.dumps(manifest))
    found.examples = ActivatingExamples.open(found.examples).folder
    return found


def test_the_command_explains_and_a_second_run_costs_nothing(shell: Shell) -> None:
    with serve(understands_words) as server:
        done = shell(server.url, "--yes", "--explainer-price", "1,2")
        assert done.exit_code == 0, done.output
        asked, first = len(server.requests), read_result(shell.out).evaluators[EVALUATOR]
        again = shell(server.url)  # nothing to ask, so that nobody needs to agree
    assert asked == 1 + 3 * 58 and len(server.requests) == asked
    assert again.exit_code == 0, again.output
    result = read_result(shell.out)
    assert result.metric(f"{EVALUATOR}.detection").value == 1.0
    second = result.evaluators[EVALUATOR]
    assert second.metrics == first.metrics and second.details["latents"] == first.details["latents"]
    assert second.details["calls"]["scorer"]["cached"] == 3 * 57
    assert result.definitions.keys() >= {"explain/llm", "explain/prompts/detection.jinja", "explain/examples"}
    assert "0.0" in done.output and "detection" in done.output
    offline = shell(server.url)  # the server is gone by now
    assert offline.exit_code == 0, offline.output


def test_the_command_asks_before_it_spends(shell: Shell) -> None:
    with serve(understands_words) as server:
        done = shell(server.url, say="n\n")
    assert len(server.requests) == 1 and not shell.out.exists()
    assert isinstance(done.exception, SaebenchError) and "No question was sent" in str(done.exception)
    assert "174" in done.output or "171" in done.output


def test_another_scorer_and_fewer_tests(shell: Shell) -> None:
    with serve(understands_words) as one, serve(understands_words) as two:
        done = shell(one.url, "--yes", "--scorer-url", two.url, "--scorer-model", "judge", "--tests", "intruder, detection")
        assert done.exit_code == 0, done.output
    assert {request["model"] for request in two.requests} == {"judge"} and len(one.requests) == 1 + 3
    assert {kind_of(request) for request in two.requests} == {"check", "intruder", "detection"}
    settings = read_result(shell.out).evaluators[EVALUATOR].settings
    assert settings["scorer"] == {"url": two.url, "model": "judge"} and settings["protocol"]["tests"] == [
        "intruder",
        "detection",
    ]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [(["--latents", "a"], "--latents must be numbers"), (["--explainer-price", "cheap"], "--explainer-price must be"),
     (["--tests", "x"], "There is no test 'x'"), (["--explainer-url", "nowhere"], "must be an address"),
     (["--examples", "missing"], "There is no folder missing"), (["--concurrency", "0"], "concurrency is 0"),
     (["--latents", "6"], "None of the latents has enough")],
)  # fmt: skip
def test_bad_input_is_one_sentence_before_anything_is_asked(shell: Shell, more: list[str], sentence: str) -> None:
    with serve(understands_words) as server:
        done = shell(server.url, "--yes", *more)
    assert isinstance(done.exception, SaebenchError) and sentence in str(done.exception)
    assert not server.requests


def test_a_file_of_somebody_elses_is_not_overwritten(shell: Shell) -> None:
    shell.out.write_text("my notes")
    with serve(understands_words) as server:
        done = shell(server.url, "--yes")
    assert isinstance(done.exception, SaebenchError) and shell.out.read_text() == "my notes"


def test_examples_of_another_autoencoder(shell: Shell, planted: Planted, tmp_path: Path) -> None:
    from dataclasses import replace

    shell.checkpoint = save_native(replace(planted[0], b_dec=planted[0].b_dec + 1), tmp_path / "other")
    with serve(understands_words) as server:
        done = shell(server.url, "--yes")
    assert isinstance(done.exception, SaebenchError) and "are of another autoencoder" in str(done.exception)
    assert not server.requests
