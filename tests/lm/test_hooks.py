import pytest

from saebench.errors import SaebenchError
from saebench.lm.hooks import check_hook, parse_hook


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("blocks.8.hook_resid_post", "blocks.8.hook_resid_post"),
        ("blocks.8.resid_pre", "blocks.8.hook_resid_pre"),
        ("blocks.2.attn.hook_z", "blocks.2.attn.hook_z"),
        ("model.layers.14", "blocks.14.hook_resid_post"),
        ("layers.5.mlp", "blocks.5.hook_mlp_out"),
        ("transformer.h.3.attn", "blocks.3.hook_attn_out"),
        ("gpt_neox.layers.3", "blocks.3.hook_resid_post"),
        ("model.language_model.layers.7", "blocks.7.hook_resid_post"),
        ("resid_post_layer_8", "blocks.8.hook_resid_post"),
        ("attention_out_layer_3", "blocks.3.hook_attn_out"),
        ("resid_post_mlp.8", "blocks.8.hook_resid_post"),
        ("resid_post_attn.2", "blocks.2.hook_resid_mid"),
        ("resid_delta_mlp.2", "blocks.2.hook_mlp_out"),
        ("mlp_post_act.0", "blocks.0.mlp.hook_post"),
    ],
)
def test_every_spelling_names_the_same_place(spelling: str, name: str) -> None:
    assert parse_hook(spelling).name == name


@pytest.mark.parametrize("nonsense", ["", "blocks", "the third layer", "layers.x", "resid_post"])
def test_what_cannot_be_read_is_refused_with_an_example(nonsense: str) -> None:
    with pytest.raises(SaebenchError, match=r"blocks\.8\.hook_resid_post"):
        parse_hook(nonsense)


def test_the_nearest_hook_is_suggested() -> None:
    known = ["blocks.0.hook_resid_pre", "blocks.0.hook_mlp_out"]
    with pytest.raises(SaebenchError, match=r"the nearest it has is blocks\.0\.hook_mlp_out"):
        check_hook(parse_hook("blocks.0.hook_mlp_ot"), known, 1)
    with pytest.raises(SaebenchError, match="its layers are 0 to 0"):
        check_hook(parse_hook("blocks.7.hook_resid_pre"), known, 1)
