"""What the four tests ask, and how they count."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saebench.explaining.llm.answers import Intruder, Simulation, Verdicts, verdicts_form
from saebench.explaining.llm.explainer import Writer
from saebench.explaining.llm.protocol import load_protocol
from saebench.explaining.llm.scorers import Detection, Fuzzing, IntruderTest, Simulated, make_tests
from saebench.explaining.llm.windows import Material, Window
from tests.explaining.llm.chat_server import texts_of

PROTOCOL = load_protocol()
SIZE = 12


def window(number: int, active: list[int]) -> Window:
    """Tokens that tell which window it is."""
    activations = [float(20 - index) if index in active else 0.0 for index in range(SIZE)]
    return Window(tuple(range(number * SIZE, (number + 1) * SIZE)), tuple(activations), number, 0)


@st.composite
def materials(draw: st.DrawFn) -> Material:
    positions = st.lists(st.integers(0, SIZE - 1), min_size=1, max_size=SIZE, unique=True)
    active = [window(number, draw(positions)) for number in range(20)]
    silent = [window(number, []) for number in range(20, 40)]
    return Material(draw(st.integers(0, 10_000)), 20.0, [], [active[first : first + 4] for first in range(0, 20, 4)], silent)


def plain(latent: int) -> Material:
    """Each active window has one active token."""
    active = [window(number, [2]) for number in range(20)]
    groups = [active[first : first + 4] for first in range(0, 20, 4)]
    return Material(latent, 20.0, [], groups, [window(number, []) for number in range(20, 40)])


def writer() -> Writer:
    return Writer([f" {number}" for number in range(40 * SIZE)], PROTOCOL)


def asked(question: object) -> list[str]:
    prompt = question.prompt  # type: ignore[attr-defined]
    return texts_of({"messages": [{"content": prompt.system}, {"content": prompt.user}]})


def verdicts(answers: Sequence[bool]) -> Verdicts:
    found: Verdicts = verdicts_form(len(answers)).model_validate({f"text_{n}": each for n, each in enumerate(answers, 1)})
    assert found.answers == list(answers)
    return found


def number_of(text: str) -> int:
    return int(text.replace("⟪", "").replace("⟫", "").split()[0]) // SIZE


@given(materials())
@settings(max_examples=25, deadline=None)
def test_detection_shows_every_window_once(material: Material) -> None:
    questions = Detection(PROTOCOL, 0).questions(material, "x", writer())
    shown = [(number_of(text), truth) for each in questions for text, truth in zip(asked(each), each.truth, strict=True)]
    assert sorted(shown) == [(number, number < 20) for number in range(40)]
    assert all("⟪" not in text for each in questions for text in asked(each)) and len(questions) == 8


@given(materials())
@settings(max_examples=25, deadline=None)
def test_fuzzing_shows_windows_twice_but_never_together(material: Material) -> None:
    questions = Fuzzing(PROTOCOL, 0).questions(material, "x", writer())
    seen: list[tuple[int, bool]] = []
    by_number = {each.row: each for each in material.active}
    for question in questions:
        numbers = [number_of(text) for text in asked(question)]
        assert len(set(numbers)) == len(numbers)
        for text, number, truth in zip(asked(question), numbers, question.truth, strict=True):
            inside = "".join(part.partition("⟫")[0] for part in text.split("⟪")[1:]).split()
            values = [by_number[number].activations[int(token) % SIZE] for token in inside]
            strongest = max(by_number[number].activations)
            assert all(value >= 0.3 * strongest for value in values) if truth else not any(values)
            seen.append((number, truth))
    whole = [each.row for each in material.active if 0.0 not in each.activations]
    assert sorted(seen) == [(number, truth) for number in range(20) if number not in whole for truth in (False, True)]


@given(materials())
@settings(max_examples=25, deadline=None)
def test_the_intruder_is_a_silent_window_among_one_group(material: Material) -> None:
    questions = IntruderTest(PROTOCOL, 0).questions(material, "", writer())
    assert len(questions) == 5
    for group, question in enumerate(questions):
        numbers = [number_of(text) for text in asked(question)]
        place, count = question.truth
        assert count == 5 and numbers[place - 1] >= 20
        assert sorted(numbers)[:4] == [each.row for each in material.groups[group]]
        assert all("⟪" in text for text in asked(question))


def test_the_intruder_has_any_position() -> None:
    places = [
        question.truth[0]
        for latent in range(200)
        for question in IntruderTest(PROTOCOL, 0).questions(plain(latent), "", writer())
    ]
    assert all(150 < places.count(place) < 250 for place in range(1, 6))


def test_answers_must_fit_their_question() -> None:
    material = plain(0)
    detection, _, simulated, intruder = make_tests(PROTOCOL, 0)
    question = detection.questions(material, "x", writer())[0]
    assert detection.fits(question, verdicts([True] * 5))
    assert not detection.fits(question, verdicts([True] * 4))
    trial = intruder.questions(material, "", writer())[0]
    assert [intruder.fits(trial, Intruder(intruder=n)) for n in (0, 1, 5, 6)] == [False, True, True, False]
    text = simulated.questions(material, "x", writer())[0]
    for pairs, good in (([], True), ([(1, 0), (SIZE, 10)], True), ([(0, 1)], False), ([(SIZE + 1, 1)], False),
                        ([(1, 11)], False), ([(1, -1)], False), ([(1, 2), (1, 2)], False)):  # fmt: skip
        answer = Simulation.model_validate(
            {"activations": [{"token": token, "activation": value} for token, value in pairs]}
        )
        assert simulated.fits(text, answer) == good


def test_unusable_answers_leave_the_rest_as_it_is() -> None:
    material = plain(0)
    test = Detection(PROTOCOL, 0)
    questions = test.questions(material, "x", writer())
    right = [verdicts(question.truth) for question in questions]
    score = test.score_answers(questions, [None, verdicts([True]), *right[2:]])
    assert (score.value, score.n, score.unusable) == (1.0, 30, 2)
    nothing = test.score_answers(questions, [None] * len(questions))
    assert nothing.value is None and nothing.unusable == 8 and nothing.reason
    simulated = Simulated(PROTOCOL, 0)
    empty = [Simulation(activations=[])] * 10
    silent = simulated.score_answers(simulated.questions(material, "x", writer()), empty)
    assert silent.value == 0.0 and silent.unusable == 0
    found = IntruderTest(PROTOCOL, 0)
    trials = found.questions(material, "", writer())
    answers = [
        Intruder(intruder=trial.truth[0] if index < 3 else trial.truth[0] % 5 + 1) for index, trial in enumerate(trials)
    ]
    assert found.score_answers(trials, answers).value == pytest.approx(0.6)
