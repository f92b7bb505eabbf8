"""Trained controls: what is frozen stays as initialised, a soft-frozen direction stays in its cone, the rest trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize
from typer.testing import CliRunner

from saebench import checkpoints
from saebench.errors import SaebenchError
from saebench.report.content import facts
from saebench.training.config import PENALISED, TrainingConfig
from saebench.training.controls import project_onto_cones
from saebench.training.recipe import initial_decoder
from saebench.training.run import train
from saebench.training.saving import AVERAGE
from saebench.training.sources import TensorSource
from saebench.training.trainer import Trainer
from tests.sample_results import sample_result
from tests.training.test_trainer import D, N, config, interrupted, losses, planted

ARCHITECTURES = ("topk", "multitopk", "batchtopk", "matryoshka", "jumprelu", "relu", "gated", "prolu")
CONE = 0.995
FREEZES = ("decoder", "soft-decoder", "encoder")


def control(arch: str, freeze: str, **changes: Any) -> TrainingConfig:
    """Settings of a short run; its bound is so close to 1 that directions reach it."""
    sparsity = {"target_l0": 3.0} if arch in PENALISED else {}
    cone = {"cone": CONE} if freeze == "soft-decoder" else {}
    return config(**({"arch": arch, "freeze": freeze, "tokens": 512 * 200} | sparsity | cone | changes))


def smallest_cosine(decoder: torch.Tensor, start: torch.Tensor) -> float:
    return float((normalize(decoder.double(), dim=1) * normalize(start.double(), dim=1)).sum(dim=1).min())


@pytest.mark.parametrize("freeze", FREEZES)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_control_trains_around_its_frozen_part(arch: str, freeze: str, tmp_path: Path) -> None:
    settings = control(arch, freeze)
    source = TensorSource(planted(4_096)[0])
    before = Trainer(settings, source.chunk(0)).weights
    (trainer,) = train([settings], source, [tmp_path])
    start = initial_decoder(N, D, settings.seed)
    assert torch.equal(before.decoder, start)
    first, last = losses(trainer)[:5], losses(trainer)[-5:]
    assert sum(last) < 0.9 * sum(first), (first, last)
    frozen = [freeze] if freeze in ("decoder", "encoder") else []
    for name in ("encoder", "decoder", "b_dec"):
        same = torch.equal(getattr(trainer.weights, name), getattr(before, name))
        assert same == (name in frozen), name
    for place in (tmp_path, tmp_path / AVERAGE):
        sae = checkpoints.load(place)
        if freeze == "decoder":
            assert torch.equal(sae.W_dec, start)
        elif freeze == "encoder":
            assert torch.equal(sae.W_enc.T, before.encoder)
        else:
            assert smallest_cosine(sae.W_dec, start) >= CONE - 1e-6
    if freeze == "soft-decoder":
        assert smallest_cosine(trainer.weights.decoder.detach(), start) == pytest.approx(CONE, abs=1e-6)  # the bound is used
        torch.testing.assert_close(trainer.weights.decoder.norm(dim=1), torch.ones(N), atol=1e-6, rtol=0)


def test_directions_that_would_leave_the_cone_stay_in_it_by_default(tmp_path: Path) -> None:
    source, start = TensorSource(planted(4_096)[0]), initial_decoder(N, D, 0)
    both = [config(arch="matryoshka", freeze=freeze, tokens=512 * 200, lr=0.03) for freeze in ("", "soft-decoder")]
    free, kept = train(both, source, [tmp_path / "free", tmp_path / "kept"])
    assert smallest_cosine(free.weights.decoder.detach(), start) < 0.5
    assert smallest_cosine(kept.weights.decoder.detach(), start) == pytest.approx(0.8, abs=1e-6)
    assert "control" not in checkpoints.load(tmp_path / "free").info.training


@pytest.mark.parametrize("freeze", FREEZES)
@pytest.mark.parametrize("arch", ["topk", "jumprelu"])
def test_a_resumed_control_is_the_uninterrupted_one(arch: str, freeze: str, tmp_path: Path) -> None:
    source = TensorSource(planted(5_000)[0])
    settings = control(arch, freeze, dead_after_tokens=2_000, tokens=512 * 40)
    (whole,) = train([settings], source, [tmp_path / "whole"])
    (resumed,) = interrupted(settings, source, tmp_path / "half")
    assert losses(resumed) == losses(whole) and len(losses(whole)) == 40
    for place in ("", AVERAGE):
        a, b = (checkpoints.load(tmp_path / folder / place) for folder in ("whole", "half"))
        assert torch.equal(a.W_enc, b.W_enc) and torch.equal(a.W_dec, b.W_dec) and torch.equal(a.b_dec, b.b_dec)
    with pytest.raises(SaebenchError, match=r"had other settings: .*freeze"):
        train([control(arch, "", dead_after_tokens=2_000, tokens=512 * 40)], source, [tmp_path / "half"], resume=True)


def test_a_run_from_before_controls_existed_resumes(tmp_path: Path) -> None:
    source = TensorSource(planted(5_000)[0])
    trainer = Trainer(config(), source.chunk(0))
    trainer.train_step(source.chunk(0)[:512])
    state = trainer.state()
    del state["config"]["freeze"], state["config"]["cone"]
    again = Trainer(config(), source.chunk(0))
    again.load_state(state)
    assert again.step == 1
    with pytest.raises(SaebenchError, match="had other settings: freeze"):
        Trainer(config(freeze="encoder"), source.chunk(0)).load_state(state)


def test_the_nearest_direction_of_a_cone() -> None:
    """In the plane of the two: the start rotated by the cone's angle. Directions inside are not changed."""
    start = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    decoder = torch.tensor([[0.0, 1, 0], [0.6, 0, 0.8], [0, 1, 0], [0.28, 0, 0.96]])
    inside = decoder[2:].clone()
    project_onto_cones(decoder, start, 0.8)
    torch.testing.assert_close(decoder[:2], torch.tensor([[0.8, 0.6, 0], [0.8, 0, 0.6]]))
    assert torch.equal(decoder[2:], inside)


def test_every_direction_of_many_reaches_its_cone() -> None:
    start = initial_decoder(3000, 64, 1)
    for least in (0.0, 0.3, 0.8, 0.999):
        decoder = initial_decoder(3000, 64, 2)
        project_onto_cones(decoder, start, least)
        assert least - 1e-6 <= smallest_cosine(decoder, start) <= least + 1e-6
        torch.testing.assert_close(decoder.norm(dim=1), torch.ones(3000), atol=1e-6, rtol=0)


def test_the_kind_of_control_is_in_the_record_and_in_reports(tmp_path: Path) -> None:
    source = TensorSource(planted(1_000)[0])
    shown = {"decoder": "frozen decoder", "soft-decoder": "soft-frozen decoder (cosine at least 0.9)",
             "encoder": "frozen encoder"}  # fmt: skip
    for freeze, kind in shown.items():
        cone = {"cone": 0.9} if freeze == "soft-decoder" else {}
        train([config(freeze=freeze, tokens=512, **cone)], source, [tmp_path / freeze])
        training = checkpoints.load(tmp_path / freeze).info.training
        assert (training["control"], training["config"]["freeze"]) == (kind, freeze)
        result = sample_result()
        result = result.model_copy(update={"sae": result.sae.model_copy(update={"training": training})})
        assert dict(facts(result))["Trained control"] == kind
    assert "Trained control" not in dict(facts(sample_result()))


def test_bad_settings_of_controls_are_named() -> None:
    for changes, sentence in (
        ({"freeze": "decoders"}, "^freeze is 'decoders'; choose from decoder, soft-decoder, encoder\\.$"),
        ({"freeze": "soft-decoder", "cone": 1.0}, "^cone is 1.0, but a cosine from 0 to below 1 is needed\\.$"),
        ({"freeze": "soft-decoder", "cone": float("nan")}, "^cone is nan, but"),
        ({"freeze": "decoder", "cone": 0.9}, "^cone is for freeze = 'soft-decoder' alone"),
    ):
        with pytest.raises(SaebenchError, match=sentence):
            config(**changes)


def test_the_command_takes_freeze() -> None:
    from saebench.cli import app

    done = CliRunner().invoke(app, ["train", "--freeze", "everything"])
    assert done.exit_code != 0 and "freeze is 'everything'; choose from" in str(done.exception) + done.output
