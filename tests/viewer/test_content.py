"""What the pages are filled with, against the examples and the result they come from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from saebench import checkpoints
from saebench.errors import SaebenchError
from saebench.explaining.examples.folder import ActivatingExamples
from saebench.sae import CheckpointInfo
from saebench.viewer.content import Content, Extent
from saebench.viewer.explained import explained_latents
from saebench.viewer.opening import open_viewer
from tests.viewer.conftest import DEAD, DENSE, SCRIPT, Files, N, write_meta


@pytest.fixture(scope="module")
def content(files: Files) -> Content:
    return Content.open(
        checkpoints.inspect(files.sae), files.examples, files.result, Extent(top=3, groups=2, each=2), files.meta
    )


def test_listing(content: Content) -> None:
    assert content.examples is not None
    table = content.examples.table
    first = content.listing()
    assert [row["latent"] for row in first["rows"]] == list(range(50)) and first["pages"] == 3 and first["total"] == N
    assert [row["latent"] for row in content.listing(page=2)["rows"]] == list(range(100, N))
    assert content.listing(page=99)["page"] == 2
    by_density = [row["latent"] for row in content.listing("active", "density")["rows"]]
    assert by_density[0] == DENSE
    assert list(table["density"][by_density]) == sorted(table["density"][by_density], reverse=True)
    assert DEAD in [row["latent"] for row in content.listing("dead")["rows"]]
    assert [row["latent"] for row in content.listing("explained")["rows"]] == [3, 5]
    row = first["rows"][DENSE]
    place = content.examples.latent(DENSE).top[0]
    assert row["text"][row["position"]] == content.examples.vocabulary[int(place.tokens[place.position])]
    with pytest.raises(SaebenchError, match="no such list"):
        content.listing("everything")


def test_latent_page(content: Content) -> None:
    assert content.examples is not None
    page, one = content.latent(DENSE), content.examples.latent(DENSE)
    assert page["count"] == one.count and page["density"] == pytest.approx(one.density, rel=1e-4)
    assert sum(page["histogram"]["counts"]) == one.count
    assert len(page["histogram"]["edges"]) == len(page["histogram"]["counts"]) + 1
    assert [group["name"] for group in page["groups"]] == ["Strongest", "Quantiles 50–100 %", "Quantiles 0–50 %"]
    shown, kept = page["groups"][0]["examples"], one.top[:3]
    for example, true in zip(shown, kept, strict=True):
        assert example["tokens"] == true.tokens.tolist() and example["position"] == true.position
        assert dict(example["active"])[true.position] == pytest.approx(true.value, rel=1e-4)
        assert all(page["words"][token] == content.examples.vocabulary[token] for token in example["tokens"])
    dead = content.latent(DEAD)
    assert dead["groups"] == [] and dead["histogram"] is None and dead["count"] == 0 and dead["mean"] is None
    with pytest.raises(SaebenchError, match=f"numbered 0 to {N - 1}"):
        content.latent(N)


def test_windows_are_cut_around_the_example(files: Files) -> None:
    content = Content.open(checkpoints.inspect(files.sae), files.examples, None, Extent(before=2, after=1))
    examples = ActivatingExamples.open(files.examples)
    shown, true = content.latent(DENSE)["groups"][0]["examples"][0], examples.latent(DENSE).top[0]
    first = max(true.position - 2, 0)
    assert shown["tokens"] == true.tokens[first : true.position + 2].tolist()
    assert shown["tokens"][shown["position"]] == int(true.tokens[true.position])


def test_jumps(content: Content) -> None:
    assert content.jump("dead", 0.0) is not None and content.jump("dense", 0.5) is not None
    for kind, keep in (
        ("dead", lambda each: each == 0),
        ("dense", lambda each: each > 0.1),
        ("random", lambda each: each > 0),
    ):
        for chance in (0.0, 0.37, 0.999999):
            found = content.jump(kind, chance)
            assert found is not None and keep(float(content._column("density")[found]))
            assert content.jump(kind, chance, shown=found) != found or kind != "random"
    with pytest.raises(SaebenchError, match="no such type"):
        content.jump("blue", 0.1)


def test_overview(content: Content) -> None:
    about = content.overview()
    density = content._column("density")
    assert about["dead"] == int((density == 0).sum()) and about["dense"] == int((density > 0.1).sum())
    assert sum(about["densities"]["counts"]) == int((density > 0).sum())
    assert len(about["densities"]["edges"]) == len(about["densities"]["counts"]) + 1


def test_without_examples(files: Files) -> None:
    content = Content.open(checkpoints.inspect(files.sae), None, None, Extent())
    assert content.latent(4) == {"latent": 4, "explained": {}}
    assert content.listing()["total"] == N and content.listing("dead")["total"] == 0
    assert content.jump("dead", 0.2) is None and content.jump("random", 0.5) == 60


def test_explanations_from_any_evaluator(files: Files) -> None:
    found = explained_latents(files.result, N)
    assert sorted(found) == [3, 5]
    assert found[3]["llm"]["explanation"] == SCRIPT and found[3]["explainability"]["f1"] == 0.5
    assert "latent" not in found[3]["explainability"]


def test_examples_of_another_dictionary(files: Files) -> None:
    info = CheckpointInfo("other", "saebench", "topk", 32, 32, 64, {})
    with pytest.raises(SaebenchError, match="holds examples of 120 latents, but the checkpoint has 64"):
        Content.open(info, files.examples, None, Extent())


def test_examples_of_other_weights(files: Files, tmp_path: Path) -> None:
    from saebench.checkpoints import load, save_native

    sae = load(files.sae)
    save_native(replace(sae, b_enc=sae.b_enc + 1), tmp_path / "other")
    _, live = open_viewer(str(tmp_path / "other"), examples=files.examples, model=files.model, live=False)
    with pytest.raises(SaebenchError, match="collected with other weights"):
        live.neighbours(0, patience=60)


def test_meta_latents(content: Content, files: Files, tmp_path: Path) -> None:
    sae = checkpoints.load(files.sae)
    table = write_meta(sae, tmp_path).decomposition()
    for latent in range(N):
        mine = table[table.latent == latent].sort_values("value", ascending=False)
        parts = content.latent(latent)["meta_latents"]
        assert [part["meta_latent"] for part in parts] == mine.meta_latent.tolist()
        assert [part["value"] for part in parts] == pytest.approx(mine.value.tolist(), abs=1e-4)
        for part in parts:
            sharing = table[table.meta_latent == part["meta_latent"]].sort_values("value", ascending=False).latent
            assert part["latents"] == len(sharing)
            assert part["others"] == [other for other in sharing if other != latent][:8]


def test_meta_latents_that_do_not_fit(files: Files, tmp_path: Path) -> None:
    info = checkpoints.inspect(files.sae)
    with pytest.raises(SaebenchError, match="does not hold the files of `saebench meta`"):
        Content.open(info, None, None, Extent(), tmp_path)
    with pytest.raises(SaebenchError, match="of another autoencoder, or damaged"):
        Content.open(CheckpointInfo("other", "saebench", "topk", 32, 32, 64, {}), None, None, Extent(), files.meta)
    sae = checkpoints.load(files.sae)
    write_meta(replace(sae, W_dec=sae.W_dec.flip(0), info=replace(sae.info, weights_sha256="0" * 64)), tmp_path / "meta")
    _, live = open_viewer(str(files.sae), meta=tmp_path / "meta", model=files.model, live=False)
    with pytest.raises(SaebenchError, match="The meta-latents were collected with other weights"):
        live.neighbours(0, patience=60)
