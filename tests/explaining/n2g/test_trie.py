"""The trie: known answers, agreement with a plain search, and round trips through JSON."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from saebench.explaining.n2g.trie import ANY, Path, Trie, predict_places, predict_rows
from tests.explaining.n2g.slow_n2g import slow_predict


def predict(paths: list[Path], tokens: list[int], first: int = 0) -> list[float]:
    return Trie(paths).predict(torch.tensor([tokens]), first)[0].tolist()


def test_a_token_fires_at_any_position() -> None:
    assert predict([Path((5,), False, 2.0)], [5, 1, 5]) == [2.0, 0.0, 2.0]


def test_a_bigram_needs_both_tokens_in_order() -> None:
    assert predict([Path((4, 5), False, 2.0)], [5, 4, 5, 5]) == [0.0, 0.0, 2.0, 0.0]


def test_a_wildcard_matches_exactly_one_token() -> None:
    paths = [Path((1, ANY, 3), False, 1.0)]
    assert predict(paths, [1, 9, 3]) == [0.0, 0.0, 1.0]
    assert predict(paths, [1, 3, 0]) == [0.0, 0.0, 0.0]
    assert predict(paths, [1, 9, 9, 3]) == [0.0, 0.0, 0.0, 0.0]


def test_the_start_mark_needs_the_start_of_the_text() -> None:
    paths = [Path((7,), True, 3.0)]
    assert predict(paths, [7, 7]) == [3.0, 0.0]
    assert predict(paths, [1, 7, 7], first=1) == [0.0, 3.0, 0.0]


def test_an_exact_token_goes_before_a_wildcard_and_there_is_no_way_back() -> None:
    paths = [Path((1, 2, 9), False, 1.0), Path((3, ANY, 9), False, 2.0)]
    assert predict(paths, [3, 2, 9]) == [0.0, 0.0, 0.0]
    assert predict(paths, [3, 4, 9]) == [0.0, 0.0, 2.0]


def test_the_first_leaf_ends_the_search() -> None:
    assert predict([Path((1, 9), False, 5.0), Path((9,), False, 2.0)], [1, 9]) == [0.0, 2.0]


def test_the_same_path_again_replaces_the_value_by_default() -> None:
    trie = Trie([Path((1,), False, 5.0), Path((1,), False, 2.0)])
    trie.insert(Path((1,), False, 7.0), replace=False)
    assert trie.predict(torch.tensor([[1]])).item() == 2.0


def test_an_empty_trie_says_nothing() -> None:
    assert predict([], [1, 2]) == [0.0, 0.0]


TOKEN = st.integers(0, 3)
PATHS = st.lists(
    st.builds(
        Path,
        st.lists(st.one_of(TOKEN, st.just(ANY)), min_size=1, max_size=4).map(tuple),
        st.booleans(),
        st.integers(1, 99).map(float),
    ),
    max_size=8,
)


@given(PATHS, st.lists(TOKEN, min_size=1, max_size=12))
def test_the_vectorised_search_agrees_with_the_plain_one(paths: list[Path], tokens: list[int]) -> None:
    plain = {
        (*(("^",) if path.at_start else ()), *("*" if token == ANY else token for token in path.tokens)): path.value
        for path in paths
    }
    assert predict(paths, tokens) == slow_predict(plain, tokens)


@given(st.lists(PATHS, min_size=1, max_size=4), st.lists(TOKEN, min_size=2, max_size=12))
def test_tries_together_are_each_alone(several: list[list[Path]], tokens: list[int]) -> None:
    tries, text = [Trie(paths) for paths in several], torch.tensor([tokens, tokens[::-1]])
    alone = [trie.predict(text, 1) for trie in tries]
    together = list(predict_rows(tries, text, 1))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    owners = torch.tensor([index for index in range(len(tries)) for _ in range(2)])
    rows, positions = torch.tensor([0, 1] * len(tries)), torch.full((2 * len(tries),), len(tokens) - 1)
    found = predict_places(tries, owners, text, rows, positions, 1).view(-1, 2)
    assert torch.equal(found, torch.stack([each[:, -1] for each in alone]))


@given(PATHS)
def test_what_is_written_is_read_back(paths: list[Path]) -> None:
    trie = Trie(paths)
    assert Trie.from_record(trie.record(str)) == trie
    assert Trie(list(trie.paths())) == trie
