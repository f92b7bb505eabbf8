"""Keys of configurations that change numbers: applied, or refused in one sentence, never ignored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig

from saebench import checkpoints
from saebench.errors import SaebenchError
from saebench.evaluation.preflight import check_against_config, check_centring
from saebench.lm import LanguageModel
from saebench.lm.hooks import parse_hook
from tests.checkpoints.test_formats import edited
from tests.conftest import FIXTURES


def test_centred_writing_weights_are_applied(tmp_path: Path) -> None:
    """TransformerLens removes the mean over d_model from what is written; decoding adds it again."""
    settings = {"center_writing_weights": True, "center_unembed": True, "fold_ln": True, "dtype": "float32"}
    folder = edited("saelens5/standard", tmp_path, "cfg.json", model_from_pretrained_kwargs=settings)
    sae, plain = checkpoints.load(folder), checkpoints.load(FIXTURES / "saelens5/standard")
    x = 3 * torch.randn(20, sae.d_in, generator=torch.Generator().manual_seed(0)) + 2
    mean = x.mean(dim=1, keepdim=True)
    code = plain.encode(x - mean)
    torch.testing.assert_close(sae.encode(x).to_dense(), code.to_dense())
    torch.testing.assert_close(sae.decode(sae.encode(x)), plain.decode(code) + mean)
    assert checkpoints.inspect(folder).scaling == "centred"
    again = checkpoints.load(checkpoints.save_native(sae, tmp_path / "native"))
    torch.testing.assert_close(again.decode(again.encode(x)), plain.decode(code) + mean)


def _gpt2(**process: bool) -> LanguageModel:
    """A random GPT-2 whose norms and biases are not trivial, loaded with settings of TransformerLens, or as it is."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=200, n_embd=32, n_layer=3, n_head=4, n_positions=64, initializer_range=0.2, attn_implementation="eager"
    )
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape) * 0.3)
    tokenizer = AutoTokenizer.from_pretrained(FIXTURES / "saelens_evals" / "model")
    lm = LanguageModel(model, tokenizer, "random")
    if process:
        lm.bridge.enable_compatibility_mode(disable_warnings=True, **process)
    return lm


HOOKS = {
    "hook_resid_pre": 32, "hook_resid_mid": 32, "hook_resid_post": 32, "hook_attn_out": 32, "hook_mlp_out": 32,
    "attn.hook_z": 32, "attn.hook_q.head_1": 8, "attn.hook_k.head_1": 8, "attn.hook_v.head_1": 8, "mlp.hook_post": 128,
}  # fmt: skip


@pytest.mark.parametrize("point", HOOKS)
@pytest.mark.parametrize(
    "settings",
    [("center_writing_weights",), ("fold_ln", "center_unembed"), ("center_writing_weights", "fold_ln", "center_unembed")],
)
def test_settings_give_what_a_model_loaded_with_them_gives(settings: tuple[str, ...], point: str, tmp_path: Path) -> None:
    """Slow plain version: TransformerLens processes the model, and the autoencoder without settings reads that."""
    place, _, head = f"blocks.1.{point}".partition(".head_")
    d = HOOKS[point]
    generator = torch.Generator().manual_seed(1)
    weights = {
        "W_enc": torch.randn(d, 40, generator=generator), "W_dec": torch.randn(40, d, generator=generator) / d**0.5,
        "b_enc": torch.randn(40, generator=generator), "b_dec": torch.randn(d, generator=generator),
    }  # fmt: skip
    folders = []
    for name, given in (("with", dict.fromkeys(settings, True)), ("without", {})):
        config = {"d_in": d, "hook_name": place, "hook_head_index": int(head) if head else None}
        folders.append(
            edited("saelens5/standard", tmp_path / name, "cfg.json", **config, model_from_pretrained_kwargs=given)
        )
        save_file(weights, folders[-1] / "sae_weights.safetensors")
    sae, plain = (checkpoints.load(folder) for folder in folders)
    keys = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
    ours, theirs = _gpt2(), _gpt2(**{key: key in settings for key in keys})
    tokens = torch.randint(0, 200, (2, 12), generator=generator)
    assert sae.info.hook_in is not None
    cuts = ours.cut(sae.info.hook_in), theirs.cut(sae.info.hook_in)
    prefixes = [cut.prefix(tokens) for cut in cuts]
    reads = [prefix.inputs.flatten(0, 1) for prefix in prefixes]
    codes = sae.encode(reads[0]), plain.encode(reads[1])
    torch.testing.assert_close(codes[0].to_dense(), codes[1].to_dense(), atol=1e-4, rtol=1e-4)
    logits = [
        cut.suffix(each.decode(code).view(2, 12, -1), prefix).log_softmax(-1)
        for cut, each, code, prefix in zip(cuts, (sae, plain), codes, prefixes, strict=True)
    ]
    torch.testing.assert_close(logits[0], logits[1], atol=1e-3, rtol=0)
    if "center_writing_weights" in settings and sae.scaling.kind == "centred":
        assert not torch.allclose(reads[0], reads[1], atol=1e-2)  # the setting does change what is read


def test_settings_without_effect_change_nothing(tmp_path: Path) -> None:
    settings = {"center_writing_weights": False, "fold_ln": True, "center_unembed": True}
    folder = edited("saelens5/standard", tmp_path, "cfg.json", model_from_pretrained_kwargs=settings)
    numbers = load_file(folder / "numbers.safetensors")
    torch.testing.assert_close(checkpoints.load(folder).encode(numbers["x"]).to_dense(), numbers["latents"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_from_pretrained_kwargs": {"fold_ln": True}, "hook_name": "blocks.3.ln2.hook_normalized"}, "fold_ln"),
        ({"model_from_pretrained_kwargs": {"fold_value_biases": True}, "hook_name": "blocks.3.attn.hook_z"}, "fold_value"),
        ({"model_from_pretrained_kwargs": {"refactor_factored_attn_matrices": True}}, "refactor_factored"),
        ({"model_from_pretrained_kwargs": {"revision": "step3"}}, "revision"),
        ({"model_from_pretrained_kwargs": [1]}, "not an object"),
        ({"activation_fn": "tanh-relu"}, "tanh-relu"),
        ({"activation_fn_str": "gelu", "activation_fn": None}, "gelu"),
        ({"activation_fn_kwargs": {"bandwidth": 2}}, "bandwidth"),
        ({"hook_head_index": 3}, "single attention head 3 .* is not divided into attention heads"),
        ({"hook_head_index": -1}, "gives -1 for hook_head_index"),
        ({"hook_head_index": "two"}, "gives 'two' for hook_head_index"),
        ({"model_from_pretrained_kwargs": {"fold_value_biases": True}, "hook_name": "blocks.3.attn.hook_v"}, "fold_value"),
        ({"reshape_activations": "fold"}, "reshapes its input"),
    ],
)
def test_what_is_not_applied_is_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    if "hook_name" in changes:  # older files spell it so
        changes = changes | {"hook_point": changes["hook_name"]}
    folder = edited("saelens5/standard", tmp_path, "cfg.json", **changes)
    for read in (checkpoints.inspect, checkpoints.load):
        with pytest.raises(SaebenchError, match=words):
            read(folder)


def test_the_head_of_an_old_configuration_is_part_of_its_hook(tmp_path: Path) -> None:
    changes = {"hook_name": "blocks.1.attn.hook_q", "hook_point": "blocks.1.attn.hook_q", "hook_head_index": 3}
    folder = edited("saelens5/standard", tmp_path, "cfg.json", **changes)
    info = checkpoints.inspect(folder)
    assert (info.hook_in, info.hook_out) == ("blocks.1.attn.hook_q.head_3",) * 2
    hooks = (parse_hook("blocks.1.attn.hook_q.head_3"),) * 2
    check_against_config(_saved_config(tmp_path / "fits", d_head=12), info, hooks)
    with pytest.raises(SaebenchError, match=r"has width 12, but an attention head of .* has 8"):
        check_against_config(_saved_config(tmp_path / "narrow", d_head=8), info, hooks)
    beyond = (parse_hook("blocks.1.attn.hook_k.head_3"),) * 2
    with pytest.raises(SaebenchError, match=r"no blocks\.1\.attn\.hook_k\.head_3: its heads there are 0 to 1"):
        check_against_config(_saved_config(tmp_path / "shared", d_head=12), info, beyond)


def _saved_config(folder: Path, d_head: int) -> str:
    """The configuration of a model of 4 heads that share 2 keys."""
    sizes = {"hidden_size": 4 * d_head, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    LlamaConfig(**sizes, vocab_size=50).save_pretrained(folder)
    return str(folder)


def test_centring_needs_a_model_with_layer_norm(tmp_path: Path) -> None:
    from types import SimpleNamespace

    folder = edited("saelens5/standard", tmp_path, "cfg.json", model_from_pretrained_kwargs={"center_writing_weights": True})
    info = checkpoints.inspect(folder)
    check_centring("gpt2", SimpleNamespace(layer_norm_epsilon=1e-5), info)
    with pytest.raises(SaebenchError, match="only a model with layer norm"):
        check_centring("llama", SimpleNamespace(rms_norm_eps=1e-5), info)


@pytest.mark.parametrize("changes", [{"sae_type": "clt"}, {"use_glu_encoder": True}, {"act_fn": "tanh-relu"}])
def test_openmoss_formulas_that_are_not_read(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SaebenchError):
        checkpoints.load(edited("llama_scope/openmoss", tmp_path, "config.json", **changes))
