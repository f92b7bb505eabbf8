"""Names of places in a language model, in every spelling that checkpoints use."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from saebench.errors import SaebenchError

POINTS = {
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "resid_post": "hook_resid_post",
    "mlp_in": "mlp.hook_in",
    "mlp_out": "hook_mlp_out",
    "mlp_post": "mlp.hook_post",
    "attn_out": "hook_attn_out",
    "z": "attn.hook_z",
}
"""Points of a block with several names, by TransformerLens's name."""

_SYNONYMS = {
    # OpenAI's sparse_autoencoder
    "resid_post_mlp": "resid_post",
    "resid_post_attn": "resid_mid",
    "resid_delta_mlp": "mlp_out",
    "resid_delta_attn": "attn_out",
    "mlp_post_act": "mlp_post",
    # dictionary_learning's submodule names
    "attention_out": "attn_out",
}

_TRANSFORMER_LENS = re.compile(r"^blocks\.(\d+)\.(.+)$")
_HUGGING_FACE = re.compile(
    r"^(?:model\.|transformer\.|gpt_neox\.|language_model\.|base_model\.)*(?:layers|h|blocks)\.(\d+)(?:\.(\w+))?$"
)
_NAMED = re.compile(r"^(?:layer[ _.]?(\d+)[ _./]+([a-z_]+)|([a-z_]+?)[ _./]*(?:layer[ _.]?)?(\d+))$")
_HF_PARTS = {"mlp": "mlp_out", "mlp_in": "mlp_in", "feed_forward": "mlp_out"} | dict.fromkeys(
    ("attn", "self_attn", "attention"), "attn_out"
)


HEAD_POINTS = ("attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_z")
"""Points with an axis of attention heads, ``[batch, position, head, d_head]``."""
_HEAD = re.compile(r"\.head_(\d+)$")


@dataclass(frozen=True)
class Hook:
    """A place in a block of the model, or one attention head of it (``head``).

    ``name`` is ``blocks.<layer>.<point>``, followed by ``.head_<head>`` where there is one.
    """

    layer: int
    point: str  # without the block: "hook_resid_post", "mlp.hook_post", ...
    head: int | None = None

    @property
    def whole(self) -> str:
        """TransformerLens's name, of all heads."""
        return f"blocks.{self.layer}.{self.point}"

    @property
    def name(self) -> str:
        """TransformerLens's name, with the head where there is one."""
        return self.whole if self.head is None else f"{self.whole}.head_{self.head}"

    @property
    def is_residual(self) -> bool:
        """Whether it is the whole residual stream between two blocks."""
        return self.head is None and self.point in ("hook_resid_pre", "hook_resid_post", "hook_in", "hook_out")

    @property
    def is_block_output(self) -> bool:
        """Whether it is the residual stream after its block."""
        return self.head is None and self.point in ("hook_resid_post", "hook_out")

    @property
    def hooks(self) -> tuple[Hook, ...]:
        """The one place: ``HookSet`` has several."""
        return (self,)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class HookSet:
    """Several places, which one autoencoder reads or writes together: their activations stand side by side, in this order.

    It answers as ``Hook`` does; ``layer`` is that of the first place.
    """

    hooks: tuple[Hook, ...]

    head = None
    is_residual = False
    is_block_output = False

    @property
    def layer(self) -> int:
        """The lowest block of the places."""
        return min(hook.layer for hook in self.hooks)

    @property
    def point(self) -> str:
        """The point that all have, else their points."""
        return ",".join(dict.fromkeys(hook.point for hook in self.hooks))

    @property
    def name(self) -> str:
        """The names, separated by commas."""
        return ",".join(hook.name for hook in self.hooks)

    whole = name

    def __str__(self) -> str:
        return f"{self.hooks[0]} and {len(self.hooks) - 1} more places"


Place = Hook | HookSet


def parse_place(text: str) -> Place:
    """One hook, or several separated by commas.

    Raises:
        SaebenchError: no spelling fits, or a place is named twice.
    """
    found = tuple(parse_hook(part) for part in text.split(","))
    if len(set(found)) < len(found):
        raise SaebenchError(f"{text!r} names a place twice.")
    return found[0] if len(found) == 1 else HookSet(found)


def parse_hook(text: str) -> Hook:
    """Read a hook's name in TransformerLens's, Hugging Face's or a checkpoint library's spelling.

    Examples: ``blocks.8.hook_resid_post``, ``model.layers.14`` (the output of that block), ``layers.5.mlp`` (the output
    of that MLP), ``transformer.h.3.attn``, ``resid_post_layer_8``, ``resid_post_mlp.8``. A single attention head is
    appended: ``blocks.8.attn.hook_z.head_3``.

    Raises:
        SaebenchError: no spelling fits.
    """
    name = text.strip()
    if single := _HEAD.search(name):
        place = parse_hook(name[: single.start()])
        if place.point not in HEAD_POINTS:
            raise SaebenchError(
                f"{place} is not divided into attention heads; those are {', '.join(HEAD_POINTS)} of a block."
            )
        return replace(place, head=int(single[1]))
    if match := _TRANSFORMER_LENS.match(name):
        point = match[2]
        if point in _HF_PARTS:
            point = POINTS[_HF_PARTS[point]]
        return Hook(int(match[1]), POINTS.get(point.removeprefix("hook_"), point))
    if match := _HUGGING_FACE.match(name):
        part = match[2]
        if part is None:
            return Hook(int(match[1]), POINTS["resid_post"])
        if part in _HF_PARTS:
            return Hook(int(match[1]), POINTS[_HF_PARTS[part]])
    if match := _NAMED.match(name.lower()):
        layer, word = (match[1], match[2]) if match[1] is not None else (match[4], match[3])
        word = word.strip("_").removeprefix("hook_").removesuffix("_layer").strip("_")
        word = _SYNONYMS.get(word, word)
        if word in POINTS:
            return Hook(int(layer), POINTS[word])
    raise SaebenchError(
        f"Cannot read {text!r} as a place in a model: write it like blocks.8.hook_resid_post, "
        "or like model.layers.8 for the output of a block."
    )


def check_hook(hook: Hook, known: Iterable[str], n_layers: int) -> None:
    """Raise ``SaebenchError`` where the model has no such hook, suggesting the nearest that it has."""
    names = set(known)
    if hook.whole in names:
        return
    if not 0 <= hook.layer < n_layers:
        raise SaebenchError(f"The model has no {hook.name}: its layers are 0 to {n_layers - 1}.")
    near = difflib.get_close_matches(hook.whole, sorted(names), n=1, cutoff=0.0)
    raise SaebenchError(f"The model has no {hook.name}; the nearest it has is {near[0] if near else 'none'}.")
