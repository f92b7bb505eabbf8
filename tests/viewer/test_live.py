"""Neighbours, logit lens and search against plain computations."""

from __future__ import annotations

import pytest
import torch

from saebench.errors import SaebenchError
from saebench.lm import LanguageModel
from saebench.sae import SparseAutoencoder
from saebench.viewer import live as module
from saebench.viewer.live import Live, Model, NotReady, Weights
from tests.conftest import HOOK
from tests.viewer.conftest import DENSE


@pytest.mark.parametrize("chunk", [7, 8192])
def test_neighbours(viewer_sae: SparseAutoencoder, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    cosines = torch.nn.functional.cosine_similarity(viewer_sae.W_dec.unsqueeze(1), viewer_sae.W_dec.unsqueeze(0), dim=-1)
    cosines.fill_diagonal_(-2)
    found = Weights(viewer_sae).all_neighbours(4, 9, 5)
    for latent, pairs in zip(range(4, 9), found, strict=True):
        values, names = cosines[latent].topk(5)
        assert [name for name, _ in pairs] == names.tolist()
        assert [value for _, value in pairs] == pytest.approx(values.tolist(), abs=1e-4)


def test_fewer_latents_than_neighbours(viewer_sae: SparseAutoencoder) -> None:
    assert len(Weights(viewer_sae.prefix(4)).neighbours(2)) == 3


def test_lens_is_the_direction_through_gain_and_unembedding(
    viewer_sae: SparseAutoencoder, tiny_model: LanguageModel
) -> None:
    model = Model(viewer_sae, tiny_model.cut(HOOK), bos=True)
    weights = dict(tiny_model.bridge.original_model.named_parameters())
    gain = next(value for name, value in weights.items() if name.startswith("model.norm") and name.endswith("weight"))
    unembedding = tiny_model.bridge.W_U.float()
    logits = (viewer_sae.W_dec[9] * gain.float()) @ unembedding
    logits = logits - logits.mean()
    found = model.lens([8, 9])[1]
    values, names = logits.topk(10)
    assert [word for word, _ in found["top"]] == [model.words[each] for each in names.tolist()]
    assert [value for _, value in found["top"]] == pytest.approx(values.tolist(), rel=1e-2)
    assert [word for word, _ in found["bottom"]] == [model.words[each] for each in (-logits).topk(10).indices.tolist()]


def test_lens_needs_the_residual_stream(viewer_sae: SparseAutoencoder, tiny_model: LanguageModel) -> None:
    model = Model(viewer_sae, tiny_model.cut("blocks.1.attn.hook_q"), bos=True)
    assert "does not write to the residual stream" in model.lens([0])[0]["reason"]


def test_search(viewer_sae: SparseAutoencoder, tiny_model: LanguageModel) -> None:
    model = Model(viewer_sae, tiny_model.cut(HOOK), bos=True)
    found = model.search("w5 w9 w9 w30")
    dense = viewer_sae.encode(tiny_model.cut(HOOK).prefix(torch.tensor([[1, 5, 9, 9, 30]])).inputs[0, 1:].float()).to_dense()
    assert found["tokens"] == [model.words[each] for each in (5, 9, 9, 30)]
    strongest = dense.max(dim=0).values
    assert found["total"] == int((strongest > 0).sum())
    assert found["ranking"] == strongest.argsort(descending=True)[: found["total"]].tolist()
    assert found["ranking"][0] == DENSE
    for each in found["latents"]:
        values = torch.zeros(4)
        for place, value in each["active"]:
            values[int(place)] = value
        torch.testing.assert_close(values, dense[:, each["latent"]], rtol=1e-3, atol=1e-6)
    for place, latents in enumerate(found["of_tokens"]):
        assert latents == dense[place].argsort(descending=True)[:6].tolist()


@pytest.mark.parametrize(("text", "words"), [("  ", "Type some text"), ("w5 " * 1000, "at most 2,000")])
def test_texts_that_are_not_searched(
    viewer_sae: SparseAutoencoder, tiny_model: LanguageModel, text: str, words: str
) -> None:
    with pytest.raises(SaebenchError, match=words):
        Model(viewer_sae, tiny_model.cut(HOOK), bos=True).search(text)


def test_loading_continues_in_the_background(viewer_sae: SparseAutoencoder) -> None:
    import threading

    gate = threading.Event()

    def slow() -> SparseAutoencoder:
        assert gate.wait(30)
        return viewer_sae

    live = Live(slow, None)
    with pytest.raises(NotReady):
        live.neighbours(0, patience=0.01)
    gate.set()
    assert len(live.neighbours(0, patience=30)) == 10
    with pytest.raises(SaebenchError, match="without the language model"):
        live.search("w5", patience=1)
