from __future__ import annotations

from pathlib import Path

import pytest

from saebench.errors import SaebenchError
from saebench.evaluators.compute_law import find_law, read_law

LAW = 'models = ["m"]\nsource = "test"\nparameters = [1e6, 4e6, 16e6]\ncompute = [1, 4, 16]\nloss = [4.0, 2.0, 1.0]\n'


def test_a_rise_in_loss_is_read_as_compute() -> None:
    """The law is loss = 4 / sqrt(compute), so shares are known."""
    law = read_law(LAW, "law.toml")
    assert law.relative_compute(16_000_000, 1.0) == (pytest.approx(4 / 16), None)
    assert law.relative_compute(16_000_000, 0.6) == (pytest.approx((4 / 1.6) ** 2 / 16), None)
    assert law.relative_compute(4_000_000, 2.0) == (pytest.approx(1 / 4), None)
    assert law.relative_compute(4_000_000, 6.0) == (pytest.approx(0.25 / 4), None)
    assert law.relative_compute(1_000_000, 4.0) == (pytest.approx(0.25), None)
    assert law.relative_compute(16_000_000, -0.1) == (1.0, None)
    share, reason = law.relative_compute(1_000_000_000, 0.1)
    assert share is None and reason


def test_gpt2_has_a_law_and_others_have_none() -> None:
    law = find_law(None, "openai-community/gpt2")
    assert law is not None
    assert law.relative_compute(774_000_000, 2.84 - 2.67) == (pytest.approx(350 / 774), None)
    assert find_law(None, "smollm2") is None


def test_what_is_no_law_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SaebenchError, match="There is no scaling law at"):
        find_law(tmp_path / "none.toml", "m")
    for text in ("models = 3", "not toml [", LAW.replace("2.0", "5.0"), LAW.replace("[1, 4, 16]", "[1]")):
        with pytest.raises(SaebenchError):
            read_law(text, "law.toml")


@pytest.mark.parametrize(
    "columns",
    [
        "parameters = [5e-324, 1.0]\ncompute = [1.0, 2.0]\nloss = [2.0, 1.0]",
        "parameters = [1.0, 2.0]\ncompute = [1.0, 1.0000000000000002]\nloss = [2e300, 1.9999999999999998e300]",
    ],
)
def test_a_law_between_whose_models_nothing_can_be_interpolated_is_refused(columns: str) -> None:
    with pytest.raises(SaebenchError, match="two or more models of one parameter or more"):
        read_law(f'models = ["m"]\nsource = "s"\n{columns}', "odd.toml")
