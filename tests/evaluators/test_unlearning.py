"""Unlearning on a model whose answers hang on known directions, and its parts against a slow, dense version."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import saebench
from saebench.errors import SaebenchError
from saebench.evaluators.base import Measured
from saebench.evaluators.forgetting.latents import active_share, clamped_answers, forget_latents, shared_start
from saebench.evaluators.forgetting.protocol import read_pair, read_unlearning_protocol
from saebench.evaluators.forgetting.questions import Asker, ChoiceQuestion, known_questions, read_questions
from saebench.evaluators.unlearning import Unlearning, metrics_of
from saebench.lm.prompts import in_common
from saebench.notices import collect_notices
from saebench.results import EvaluatorResult
from tests.evaluators.question_world import HOOK, MARK, QUESTIONS, SCIENCE, SENSE, QuestionWorld, question_world

PROTOCOL = read_unlearning_protocol()
OPTIONS = {"pair": "sciq-openbookqa", "rows": 32, "context": 32}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pair")


@pytest.fixture(scope="module")
def world(folder: Path) -> QuestionWorld:
    return question_world(folder)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAEBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "questions"))


def run(world: QuestionWorld, folder: Path, *latents: tuple[int, tuple[int, ...]], **options: Any) -> EvaluatorResult:
    card = saebench.evaluate(
        world.sae(*latents), model=world.model, corpus=world.corpus, evaluators=["unlearning"], progress=False,
        data_dir=folder, options={"unlearning": OPTIONS | options},
    )  # fmt: skip
    assert card.result.failures == {}
    return card.result.evaluators["unlearning"]


def values(found: EvaluatorResult) -> dict[str, float | None]:
    return {name: each.value for name, each in found.metrics.items()}


SCIENCE_MARK, SENSE_MARK = (SCIENCE, (MARK, SCIENCE)), (SENSE, (MARK, SENSE))


def test_latents_of_one_side_unlearn_it(world: QuestionWorld, folder: Path) -> None:
    """The mark of science is gone. What is read then are all other positions alike, one less for the right letter."""
    found = run(world, folder, SCIENCE_MARK, SENSE_MARK)
    assert found.details["known"] == {"forget": QUESTIONS, "retain": QUESTIONS}
    assert found.details["latents"] == {"0.001": [0], "0.01": [0]}
    assert values(found) == {
        "unlearning_score": 1, "retained": 1, "settings_kept": 1, "known_forget": 1, "known_retain": 1,
    }  # fmt: skip
    assert len(found.details["by_setting"]["clamp"]) == 16


def test_nothing_is_unlearned_without_a_latent_of_its_own(world: QuestionWorld, folder: Path) -> None:
    """A latent of both sides' marks is active on the retained text, so it is no candidate."""
    found = run(world, folder, (MARK, (MARK,)), SENSE_MARK)
    assert found.details["latents"] == {"0.001": [], "0.01": []}
    assert values(found)["unlearning_score"] == 0 and values(found)["retained"] == 1


def test_side_effects_rule_settings_out(tmp_path: Path) -> None:
    """The retained text does not hold what its questions need: the common latent is chosen, and its damage is seen."""
    world = question_world(tmp_path, marks_in_retained_text=False)
    found = run(world, tmp_path, (MARK, (MARK,)))
    assert found.details["latents"]["0.01"] == [0]
    assert values(found)["unlearning_score"] == 0 and values(found)["settings_kept"] == 0
    assert max(found.details["by_setting"]["retain_right"]) < 0.5 * QUESTIONS


def test_a_model_without_knowledge_gets_a_reason(tmp_path: Path) -> None:
    ignorant = question_world(tmp_path, knows=False)
    found = run(ignorant, tmp_path, SCIENCE_MARK)
    score = found.metrics["unlearning_score"]
    assert score.value is None and score.reason is not None
    assert "0 of 24 questions to forget" in score.reason and "10 are needed" in score.reason
    assert values(found)["known_forget"] == 0


def test_the_score_is_the_best_setting_that_keeps_the_others() -> None:
    """Five settings; the second loses more than 1 % of the retained questions, the third is the best of the others."""
    columns = {
        "retain_share": [0.01] * 5, "latents": [10] * 5, "clamp": [25, 50, 100, 200, 300],
        "forget_right": [40, 0, 10, 25, 50], "retain_right": [200, 197, 198, 199, 200],
    }  # fmt: skip
    details = {"questions": {"forget": 90, "retain": 300}, "known": {"forget": 50, "retain": 200}, "by_setting": columns}
    found = {each.name: each for each in metrics_of(details, PROTOCOL)}
    assert found["unlearning_score"].value == 0.8 and found["retained"].value == 0.99
    assert found["unlearning_score"].standard_error == pytest.approx((0.2 * 0.8 / 50) ** 0.5)
    assert found["settings_kept"].value == 0.8 and found["known_forget"].value == pytest.approx(50 / 90)


def test_metrics_follow_from_the_details(world: QuestionWorld, folder: Path) -> None:
    found = run(world, folder, SCIENCE_MARK, SENSE_MARK)
    measured = Measured(2, 1, 1, "m", 1, 1, 1, 0)
    assert {each.name: each for each in Unlearning.recomputed(found, measured)} == found.metrics


def test_missing_data_is_one_sentence(world: QuestionWorld, folder: Path) -> None:
    def evaluate(**more: Any) -> None:
        saebench.evaluate(world.sae(SCIENCE_MARK), model=world.model, corpus=world.corpus, evaluators=["unlearning"],
                          progress=False, **more)  # fmt: skip

    with pytest.raises(SaebenchError, match=r"wmdp-bio needs wmdp/bio-forget-corpus\.jsonl, but .* .gated data: ask"):
        evaluate(data_dir=folder)
    with pytest.raises(SaebenchError, match="no data folder is given: name the folder with --data-dir"):
        evaluate(options={"unlearning": OPTIONS})
    with pytest.raises(
        SaebenchError, match="no definition 'wmdp' in tasks/unlearning; there are: sciq-openbookqa, wmdp-bio"
    ):
        evaluate(options={"unlearning": {"pair": "wmdp"}}, data_dir=folder)


def test_the_gated_pair_is_read_from_a_folder(world: QuestionWorld, tmp_path: Path) -> None:
    """The whole of WMDP-bio's definition, on files of its form."""
    import json

    pair = read_pair("wmdp-bio")
    assert pair.retain.questions[0].subject == "high school us history" and len(pair.retain.questions) == 4
    for side, letter in ((pair.forget, "s"), (pair.retain, "c")):
        path = tmp_path / side.text
        path.parent.mkdir(parents=True, exist_ok=True)
        text = f"word {letter}yes0 word {letter}no1 " * 100
        path.write_text(text if path.suffix == ".txt" else json.dumps({"text": text}))
        for each in side.questions:
            (tmp_path / each.file).parent.mkdir(parents=True, exist_ok=True)
            choices = [f"{letter}yes0", f"{letter}no0", f"{letter}no1", f"{letter}no2"]
            rows = [{"question": "word", "choices": choices[at:] + choices[:at], "answer": (4 - at) % 4} for at in range(4)]
            (tmp_path / each.file).write_text("\n".join(map(json.dumps, rows * 3)))
    found = run(world, tmp_path, SCIENCE_MARK, SENSE_MARK, pair="wmdp-bio")
    assert found.details["known"] == {"forget": 12, "retain": 48}
    assert values(found)["unlearning_score"] == 1 and values(found)["retained"] == 1


def test_questions_of_the_data_at_hand(shared_data: Path) -> None:
    pair = read_pair("sciq-openbookqa")
    assert pair.missing(shared_data) == []
    science = read_questions(shared_data, pair.forget.questions[0])
    sense = read_questions(shared_data, pair.retain.questions[0])
    assert len(science) == 1000 and science[0].text == "Who proposed the theory of evolution by natural selection?"
    assert science[0].options == ("darwin", "Linnaeus", "shaw", "Scopes") and science[1].right == 1
    assert len(sense) == 3000 and sense[0].options[sense[0].right] == "danger"


def test_damaged_questions_are_named(tmp_path: Path) -> None:
    of = read_pair("wmdp-bio").forget.questions[0].model_copy(update={"file": "q.jsonl"})
    for row in ('{"question": "a", "choices": ["x"], "answer": 0}', '{"question": "a", "choices": ["x", "y"], "answer": 2}',
                '{"question": 1, "choices": ["x", "y"], "answer": 0}'):  # fmt: skip
        (tmp_path / "q.jsonl").write_text(row)
        with pytest.raises(SaebenchError, match=r"Row 1 of q\.jsonl is no question with 2 to 4 options"):
            read_questions(tmp_path, of)


def test_known_questions_are_right_under_every_order(world: QuestionWorld) -> None:
    """Against all orders, one prompt at a time. A question without a right option is answered by its place: not known."""
    cut = world.model.cut(HOOK)
    asker = Asker(world.model.tokenizer, PROTOCOL.questions, True)
    questions = [
        ChoiceQuestion("x", "word", ("syes0", "sno1", "sno2", "cno1"), 0),
        ChoiceQuestion("x", "word", ("sno0", "sno1", "sno2", "cno1"), 1),
        ChoiceQuestion("x", "word", ("cno0", "cyes1", "cno2"), 1),
        ChoiceQuestion("x", "word", ("cyes0", "syes1", "cno2", "cno0"), 0),
    ]
    slow = []
    for number, question in enumerate(questions):
        rights = []
        for order in permutations(range(len(question.options))):
            asked = asker.ask(question, order)
            logits = world.model.logits(torch.tensor([asked.ids]))[0, -1]
            letters = [int(world.model.tokenizer.convert_tokens_to_ids(letter)) for letter in "ABCD"[: len(order)]]
            rights.append(int(logits[letters].argmax()) == order.index(question.right))
        if all(rights):
            slow.append(number)
    assert known_questions(cut, asker, questions, lambda amount: None) == slow == [0, 2]


def test_clamped_answers_agree_with_a_dense_version(
    world: QuestionWorld, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What all questions begin with runs once for each setting, or, without a key-value cache, with each question."""
    cut = world.model.cut(HOOK)
    asker = Asker(world.model.tokenizer, PROTOCOL.questions, True)
    from dataclasses import replace

    sae = world.sae(SCIENCE_MARK, SENSE_MARK, (MARK, (MARK, SCIENCE, SENSE)), (0, (5, 9)))
    sae = replace(sae, W_dec=sae.W_dec * torch.tensor([[1.0], [0.5], [2.0], [1.0]]))
    pair = read_pair("sciq-openbookqa")
    questions = [each for side in (pair.forget, pair.retain) for each in read_questions(folder, side.questions[0])]
    asked = [asker.ask(each, range(4)) for each in questions]
    settings: list[tuple[Tensor, float]] = [
        (torch.tensor(latents), clamp) for latents in ([0], [1, 2], [3], []) for clamp in (0.2, 25.0)
    ]
    start = shared_start(cut, asked)
    found = clamped_answers(cut, sae, asker, asked, settings, start, lambda amount: None)
    shared, in_start, in_rest = in_common([each.ids for each in asked]), 0, 0
    for number, (latents, clamp) in enumerate(settings):
        for at, each in enumerate(asked):
            prefix = cut.prefix(torch.tensor([each.ids]))
            x = prefix.outputs[0]
            dense = sae.encode(x).to_dense()
            changed = dense.clone()
            norms = sae.W_dec.norm(dim=1)
            for latent in latents.tolist():
                changed[1:, latent] = torch.where(dense[1:, latent] > 0, -clamp / norms[latent], dense[1:, latent])
            in_start += int((changed != dense)[:shared].any())
            in_rest += int((changed != dense)[shared:].any())
            outputs = x + (changed - dense) @ sae.W_dec
            logits = cut.suffix(outputs[None], prefix)[:, -1]
            assert bool(found[number, at]) == bool(asker.right(logits, [each])[0]), (number, at)
    assert 0 < float(found.float().mean()) < 1 and shared == start > 1 and in_start and in_rest
    monkeypatch.setattr(world.model, "cache_argument", None)
    with collect_notices() as notices:
        assert shared_start(cut, asked) == 0
        assert torch.equal(clamped_answers(cut, sae, asker, asked, settings, 0, lambda amount: None), found)
    assert len(notices) == 1 and "Whole questions run with each setting" in notices[0]


def test_latents_to_forget() -> None:
    forget = torch.tensor([0.5, 0.2, 0.3, 0.0, 0.3, 0.9])
    retain = torch.tensor([0.01, 0.0, 0.001, 0.0, 0.0, 0.5])
    assert forget_latents(forget, retain, 0.01).tolist() == [2, 4, 1]
    assert forget_latents(forget, retain, 0.001).tolist() == [4, 1]
    assert forget_latents(torch.zeros(3), torch.zeros(3), 0.01).tolist() == []


def test_shares_of_tokens_do_not_depend_on_batches(world: QuestionWorld) -> None:
    sae = world.sae(SCIENCE_MARK, SENSE_MARK, (0, (0,)))
    x = torch.randn(90, sae.d_in, generator=torch.Generator().manual_seed(0))
    dense = (sae.encode(x).to_dense() > 0).double().mean(dim=0)
    for size in (7, 90):
        assert torch.allclose(active_share(sae, x.split(size)), dense)
    assert float(dense.min()) > 0.1
