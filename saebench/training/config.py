"""The settings of a training run: one dataclass, read from TOML or flags, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import product
from math import isfinite
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from saebench.errors import SaebenchError, check_at_least
from saebench.lm.embedded import EMBEDDED_MODELS
from saebench.parsing import parse_toml
from saebench.sae.scaling import ScalingKind

ARCHITECTURES = ("topk", "multitopk", "batchtopk", "jumprelu", "relu", "gated", "prolu", "matryoshka")
DEFAULT_CONE = 0.8
FREEZES = ("decoder", "soft-decoder", "encoder")
STORED = ("float32", "bfloat16")
PENALISED = ("jumprelu", "relu", "gated", "prolu")
"""Architectures whose L0 is controlled by a penalty."""
_LEAST = dict.fromkeys(("n", "k", "tokens", "batch", "context", "checkpoint_every"), 1) | dict.fromkeys(
    ("lr", "sparsity", "target_l0", "clip", "aux_coefficient", "warmup_steps", "k_aux", "corpus_skip"), 0
)


@dataclass(frozen=True)
class TrainingConfig:
    """How to train one autoencoder. Defaults are Gao et al.'s where they give one.

    Attributes:
        model: language model; ``hook``: where its activations are taken, of an embedded model at
            the hook that `EMBEDDED_MODELS` gives by default.
        corpus: a text for ``load_corpus``; ``corpus_revision``: of a data set on the hub; ``corpus_tokens``: how much of it,
            after ``corpus_skip`` tokens that are held out for evaluation; ``context``: length of a row.
        arch: one of ``ARCHITECTURES``.
        n: number of latents.
        k: active latents per token.
        tokens: to train on; more than the corpus has are several epochs.
        batch: tokens per step.
        lr: learning rate; by default ``2e-4 / sqrt(n / 2**14)``.
        warmup_steps: of linear warm-up; ``decay_share``: of the steps at the end, over which the rate decays to 0.
        clip: largest global norm of the gradient, or 0.
        scaling: of the input; ``layer_norm`` as in the released code, ``unit_norm`` as in the paper.
        sparsity: penalty's coefficient (ReLU, Gated, JumpReLU, ProLU); ``target_l0`` adapts it to reach that L0.
            Where neither is given, ``k`` is the target L0.
        bandwidth: of JumpReLU's straight-through estimator.
        aux_coefficient: of AuxK; ``k_aux``: number of dead latents in it, by default the power of two nearest to ``d / 2``.
        dead_after_tokens: a latent that has not been active for this many tokens is dead.
        beta2: of Adam; ``ema``: decay of the average of the weights.
        group_sizes: of Matryoshka prefixes.
        freeze: what stays random, for a trained control: ``decoder`` or ``encoder`` (directions stay as initialised),
            ``soft-decoder`` (each decoder direction keeps at least the cosine ``cone`` with its start), or nothing.
        seed: of initialisation and of the order of the data.
        checkpoint_every: steps between checkpoints.
        keep_tokens: numbers of tokens after which a copy of the autoencoder is kept, in ``after-<tokens>``; whole batches.
        stored: how a cache on disk keeps activations: ``float32``, or ``bfloat16`` in half the space.
        device: to train on; the accelerator where there is one by default.
        compile: whether the loss is compiled with ``torch.compile``.
        bfloat16: whether the encoder's product is in bfloat16 (master weights stay float32).
    """

    model: str = "smollm2"
    hook: str = "blocks.15.hook_resid_post"
    corpus: str = "python-docs"
    corpus_revision: str = ""
    corpus_tokens: int = 0
    corpus_skip: int = 0
    context: int = 64
    arch: str = "topk"
    n: int = 8192
    k: int = 32
    tokens: int = 1_000_000
    batch: int = 4096
    lr: float = 0.0
    warmup_steps: int = 0
    decay_share: float = 0.0
    clip: float = 1.0
    scaling: ScalingKind = "layer_norm"
    sparsity: float = 0.0
    target_l0: float = 0.0
    bandwidth: float = 0.03
    aux_coefficient: float = 1 / 32
    k_aux: int = 0
    dead_after_tokens: int = 10_000_000
    beta2: float = 0.999
    ema: float = 0.999
    group_sizes: tuple[int, ...] = ()
    freeze: str = ""
    cone: float = DEFAULT_CONE
    seed: int = 0
    checkpoint_every: int = 500
    keep_tokens: tuple[int, ...] = ()
    stored: str = "float32"
    device: str = ""
    compile: bool = False
    bfloat16: bool = False

    def __post_init__(self) -> None:
        if self.arch not in ARCHITECTURES:
            raise SaebenchError(f"There is no architecture {self.arch!r}; choose from {', '.join(ARCHITECTURES)}.")
        if self.scaling not in get_args(ScalingKind):
            raise SaebenchError(
                f"There is no input scaling {self.scaling!r}; choose from {', '.join(get_args(ScalingKind))}."
            )
        check_at_least(self, _LEAST)
        if self.freeze and self.freeze not in FREEZES:
            raise SaebenchError(f"freeze is {self.freeze!r}; choose from {', '.join(FREEZES)}.")
        if not 0 <= self.cone < 1:
            raise SaebenchError(f"cone is {self.cone}, but a cosine from 0 to below 1 is needed.")
        if self.cone != DEFAULT_CONE and self.freeze != "soft-decoder":
            raise SaebenchError(
                "cone is for freeze = 'soft-decoder' alone; nothing else is kept within a cosine of its start."
            )
        if self.stored not in STORED:
            raise SaebenchError(f"stored is {self.stored!r}; choose from {', '.join(STORED)}.")
        uneven = [each for each in self.keep_tokens if each < 1 or each % self.batch or each > self.steps * self.batch]
        if uneven:
            raise SaebenchError(
                f"keep_tokens has {uneven[0]}, but a copy is kept after whole batches of {self.batch} tokens, up to "
                f"{self.steps * self.batch}."
            )
        if self.k > self.n:
            raise SaebenchError(f"k = {self.k} is larger than n = {self.n}: at most n latents can be active.")
        if self.target_l0 and self.arch not in PENALISED:
            raise SaebenchError(f"target_l0 is for {', '.join(PENALISED)}; the L0 of {self.arch} is its k.")
        if self.group_sizes and (sum(self.group_sizes) != self.n or min(self.group_sizes) < 1):
            raise SaebenchError(f"The group sizes {list(self.group_sizes)} do not add up to n = {self.n}.")

    @property
    def learning_rate(self) -> float:
        """The given rate, else the law of Gao et al., which scales a sweep at small n as ``1 / sqrt(n)``."""
        return self.lr or 2e-4 / (self.n / 2**14) ** 0.5

    @property
    def steps(self) -> int:
        """Number of steps."""
        return max(1, self.tokens // self.batch)

    def differing(self, record: dict[str, Any]) -> list[str]:
        """Settings of another run's ``record`` that differ from these, but for those that do not change its numbers."""
        before, now = TrainingConfig().record() | record, self.record()
        ignored = ("checkpoint_every", "device", "compile")
        return sorted(key for key in now if before.get(key) != now[key] and key not in ignored)

    def record(self) -> dict[str, Any]:
        """As JSON data."""
        lists = {"group_sizes": list(self.group_sizes), "keep_tokens": list(self.keep_tokens)}
        return asdict(self) | lists | {"learning_rate": self.learning_rate}


def read_recipe(name: str | Path) -> dict[str, Any]:
    """Settings of a recipe: a TOML file, or one of the built-in ones by name.

    Raises:
        SaebenchError: it is missing or not TOML.
    """
    path = Path(name)
    if path.suffix == ".toml":
        if not path.is_file():
            raise SaebenchError(f"There is no recipe at {name}.")
        read: Traversable = path
    else:
        folder = files("saebench.training").joinpath("recipes")
        built_in = {entry.name.removesuffix(".toml"): entry for entry in folder.iterdir() if entry.name.endswith(".toml")}
        if str(name) not in built_in:
            raise SaebenchError(f"There is no recipe {str(name)!r}; built in are {', '.join(sorted(built_in))}.")
        read = built_in[str(name)]
    try:
        return parse_toml(read.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SaebenchError(f"The recipe {name} is not TOML: {error}.") from error


def read_sweep(
    name: str | Path, changes: Mapping[str, Any] = MappingProxyType({})
) -> tuple[list[TrainingConfig], list[str]]:
    """``(configurations, names)`` of a sweep: common settings with ``[[member]]`` tables, ``[grid]`` tables, or both.

    In a grid each list is a dimension, and each other value holds for all of its members; several grids are ``[[grid]]``.

    Args:
        name: a file or a built-in recipe.
        changes: common settings that replace the file's.

    Raises:
        SaebenchError: it is missing or not TOML, has no members, or their names are missing, repeated or have other
            characters.
    """
    settings = read_recipe(name)
    members, grids = settings.pop("member", []), settings.pop("grid", [])
    grids = [grids] if isinstance(grids, dict) else grids
    if any(not isinstance(each, list) or not all(isinstance(one, dict) for one in each) for each in (members, grids)):
        raise SaebenchError(f"In the sweep {name}, member must be [[member]] tables and grid a [grid] or [[grid]] tables.")
    members = [*members, *(member for grid in grids for member in _members(grid))]
    if not members:
        raise SaebenchError(f"The sweep {name} has neither [[member]] tables nor a [grid].")
    names = [str(member.pop("name", "")) for member in members]
    if len(set(names)) < len(names) or not all(each and all(c.isalnum() or c in "-_." for c in each) for each in names):
        raise SaebenchError(f"The members of {name} need different names of letters, digits, '-', '_' and '.'.")
    return [make_config(settings | dict(changes) | member) for member in members], names


def _members(grid: dict[str, Any]) -> list[dict[str, Any]]:
    """The members of a grid, named by its dimensions: ``topk-n4096-k32``."""
    common = {key: value for key, value in grid.items() if not isinstance(value, list)}
    lists = {key: value for key, value in grid.items() if isinstance(value, list)}
    chosen = [dict(zip(lists, values, strict=True)) for values in product(*lists.values())] if lists else []
    return [
        common | each | {"name": "-".join(f"{v}" if k in ("arch", "freeze") else f"{k}{v}" for k, v in each.items())}
        for each in chosen
    ]


def make_config(settings: dict[str, Any]) -> TrainingConfig:
    """A configuration from settings by name.

    Raises:
        SaebenchError: a setting does not exist or is invalid.
    """
    known = {field.name for field in fields(TrainingConfig)}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise SaebenchError(f"There is no setting {', '.join(unknown)}; there are: {', '.join(sorted(known))}.")
    settings = {name: _typed(name, value) for name, value in settings.items()}
    if settings.get("model") in EMBEDDED_MODELS:
        settings = {"hook": EMBEDDED_MODELS[settings["model"]].hook} | settings
    if settings.get("arch") in PENALISED and not settings.get("sparsity") and not settings.get("target_l0"):
        settings = settings | {"target_l0": float(settings.get("k", TrainingConfig.k))}
    return TrainingConfig(**settings)


_TYPES = {field.name: type(field.default) for field in fields(TrainingConfig)}
_WORDS = {
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    str: "a text",
    tuple: "a list of whole numbers",
}


def _typed(name: str, value: Any) -> Any:
    """A setting of the type of its default: whole numbers do for others, lists for tuples."""
    wanted = _TYPES[name]
    if wanted is float and type(value) is int and abs(value) < 2**53:
        value = float(value)
    if wanted is tuple and isinstance(value, list | tuple) and all(type(each) is int for each in value):
        value = tuple(value)
    huge = isinstance(value, int) and abs(value) >= 2**63
    if type(value) is not wanted or huge or (isinstance(value, float) and not isfinite(value)):
        raise SaebenchError(f"{name} is {value!r}; {_WORDS[wanted]} is needed.")
    return value
