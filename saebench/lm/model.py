"""A language model cut at a hook: activations below, logits above, and no layer run twice.

``LanguageModel`` wraps a TransformerLens bridge. ``LanguageModel.cut`` cuts it at a hook. The cut's ``prefix`` runs the
layers up to it and stops there; its ``suffix`` replaces the activations and runs only the layers above.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saebench.errors import SaebenchError
from saebench.lm.bridge import (
    HookFunctions,
    NoCache,
    PassThrough,
    Stop,
    cache_argument,
    find_layers,
    only_at,
    rename_cache,
    replacement,
    side_by_side,
)
from saebench.lm.hooks import Place, check_hook, parse_place
from saebench.lm.loading import load_pretrained
from saebench.lm.placement import follow_devices, pick_devices
from saebench.lm.prefix import ContextReader, Prefix
from saebench.lm.products import use_fast_products
from saebench.lm.quiet import quiet
from saebench.lm.readout import HOOK as READOUT_HOOK
from saebench.lm.readout import Readout, readout_or_notice


class LanguageModel:
    """A causal language model that TransformerLens can bridge, in evaluation mode, without gradients.

    Attributes:
        name: as given; ``revision`` is the hub's commit, where there is one.
        bridge: the ``TransformerBridge``.
        tokenizer: the Hugging Face tokenizer.
        cache_argument: the forward argument for a key-value cache; None where the model accepts none.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any, name: str, revision: str | None = None, weights_sha256: str | None = None
    ) -> None:
        from transformer_lens.model_bridge import TransformerBridge

        model.eval()
        with quiet():
            self.bridge = TransformerBridge.boot_transformers(
                name, hf_model=model, tokenizer=tokenizer, device=str(next(model.parameters()).device)
            )
        self.bridge.eval()
        follow_devices(self.bridge)
        self.tokenizer = tokenizer
        self.name = name
        self.revision = revision
        self.weights_sha256 = weights_sha256
        use_fast_products()
        self._layers = find_layers(self.bridge)
        self._blocks = list(self._layers)
        self.cache_argument = cache_argument(self.bridge.original_model)
        if self.cache_argument == "cache":
            rename_cache(self.bridge)

    @staticmethod
    def load(
        name: str = "smollm2", dtype: str = "auto", device: str | None = None, revision: str | None = None
    ) -> LanguageModel:
        """Load a model from the hub, a folder, a GGUF file, or an embedded one.

        Args:
            name: hub name, folder, ``.gguf`` file, ``smollm2`` or ``gemma3-270m``.
            dtype: ``float32``, ``bfloat16`` or ``auto`` (the checkpoint's own on an accelerator; on a CPU bfloat16 where
                its matrix units compute it, else float32).
            device: such as ``cpu`` or ``cuda``, or several between which it is divided (``cuda:0,cuda:1``, or ``all``); the
                accelerator where there is one, by default.
            revision: branch, tag or commit on the hub.

        Raises:
            SaebenchError: it cannot be found, reached or bridged, or does not fit.
        """
        loaded = load_pretrained(name, dtype, pick_devices(device), revision)
        return LanguageModel(loaded.model, loaded.tokenizer, name, loaded.revision, loaded.weights_sha256)

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return len(self._blocks)

    @property
    def config(self) -> Any:
        """The Hugging Face configuration."""
        return self.bridge.original_model.config

    @property
    def device(self) -> torch.device:
        """The device of the embeddings, and of all activations that leave the model."""
        return self.devices[0]

    @cached_property
    def devices(self) -> tuple[torch.device, ...]:
        """All devices of the weights, the one of the embeddings first."""
        return tuple(dict.fromkeys(each.device for each in self.bridge.original_model.parameters()))

    @cached_property
    def dtype(self) -> torch.dtype:
        """Data type of the weights."""
        dtype: torch.dtype = next(self.bridge.original_model.parameters()).dtype
        return dtype

    @cached_property
    def n_parameters(self) -> int:
        """Number of weights, tied ones counted once."""
        return sum(parameter.numel() for parameter in self.bridge.original_model.parameters())

    @property
    def identity(self) -> str:
        """The identity of this model's activations: name, revision or weights, dtype."""
        known_by = self.revision or self.weights_sha256 or "unknown"
        return f"{Path(self.name).name if Path(self.name).exists() else self.name}@{known_by}/{self.dtype}"

    @cached_property
    def _readout(self) -> Readout | str:
        return Readout.of(self)

    @property
    def readout(self) -> Readout | None:
        """How logits follow from the input of the unembedding; None, with a notice, where only the model can make them."""
        return readout_or_notice(self._readout, self.name)

    @torch.no_grad()
    def logits(self, tokens: Tensor) -> Tensor:
        """Logits ``[batch, position, vocabulary]`` of the plain model."""
        result: Tensor = self.bridge(tokens.to(self.device))
        return result

    def cut(self, hook_in: str | Place, hook_out: str | Place | None = None, context: ContextReader | None = None) -> Cut:
        """Cut the model where an autoencoder reads (``hook_in``) and writes (``hook_out``, the same by default).

        Args:
            hook_in, hook_out: places in the model; several of each, separated by commas, for an autoencoder across layers.
            context: of an autoencoder that reads earlier tokens too.

        Raises:
            SaebenchError: the model lacks the hook (the nearest is suggested) or the head, or writes before it reads.
        """
        reads = parse_place(hook_in) if isinstance(hook_in, str) else hook_in
        writes = reads if hook_out is None else parse_place(hook_out) if isinstance(hook_out, str) else hook_out
        known = [name for name in self.bridge.hook_dict if name.startswith("blocks.")]
        for hook in (*reads.hooks, *writes.hooks):
            check_hook(hook, known, self.n_layers)
        if len(writes.hooks) > 1 and any(hook.point == "hook_resid_mid" for hook in writes.hooks):
            raise SaebenchError("Reconstructions at several places cannot be spliced in at hook_resid_mid: use other hooks.")
        if writes.layer < reads.layer:
            raise SaebenchError(f"The autoencoder reads at {reads} but writes at {writes}, which comes earlier.")
        return Cut(self, reads, writes, context)

    @contextmanager
    def starting_at(self, layer: int, residual: Tensor) -> Iterator[None]:
        """Within this context the model's forward pass starts from ``residual`` at block ``layer``.

        The blocks below are replaced by pass-through modules, so that they cost nothing; the last of them returns
        ``residual``. Embeddings are still computed: they are cheap, and the model derives shapes and masks from them.
        """
        for index in range(layer):
            self._layers[index] = PassThrough(self._blocks[index], residual if index == layer - 1 else None)
        try:
            yield
        finally:
            for index in range(layer):
                self._layers[index] = self._blocks[index]

    def run(self, tokens: Tensor, hooks: HookFunctions, cache: Any = None, **inputs: Tensor) -> Tensor | None:
        """A forward pass with hooks; None where a hook ended it early.

        A key-value ``cache`` is read and extended; ``inputs`` are passed to the model with the tokens.
        """
        if cache is not None and self.cache_argument is None:
            raise NoCache(f"{type(self.bridge.original_model).__name__} accepts no key-value cache")
        cached = {} if cache is None else {str(self.cache_argument): cache, "use_cache": True}
        try:
            result: Tensor = self.bridge.run_with_hooks(tokens, fwd_hooks=hooks, **cached, **inputs)
        except Stop:
            return None
        return result


class Cut:
    """A language model cut in two at the hooks of an autoencoder.

    Attributes:
        model: the language model.
        hook_in: where the autoencoder reads; ``hook_out`` where its reconstruction is spliced in.
        context: what an autoencoder that looks at earlier tokens reads; None for all others.
        d_in: width of the activations at ``hook_in``, or of what ``context`` makes of them; ``d_out`` at ``hook_out``.
    """

    def __init__(self, model: LanguageModel, hook_in: Place, hook_out: Place, context: ContextReader | None = None) -> None:
        self.model, self.hook_in, self.hook_out, self.context = model, hook_in, hook_out, context
        self._outputs_are_residual = hook_out.is_residual
        self._start = hook_out.layer + 1 if hook_out.is_block_output else hook_out.layer
        self._shapes: list[torch.Size] = []
        trial = self.prefix(torch.zeros(1, 2, dtype=torch.long))
        self.d_in, self.d_out = trial.inputs.shape[-1], trial.outputs.shape[-1]

    @property
    def parts(self) -> dict[str, slice]:
        """Where each written place lies in the outputs, by its name; empty where there is a single one."""
        ends = [0]
        for shape, hook in zip(self._shapes, self.hook_out.hooks, strict=True):
            ends.append(ends[-1] + (shape[-1] if hook.head is not None else shape.numel()))
        named = [hook.name for hook in self.hook_out.hooks]
        return {} if len(named) == 1 else {name: slice(*ends[at : at + 2]) for at, name in enumerate(named)}

    @torch.no_grad()
    def prefix(self, tokens: Tensor, visible: Tensor | None = None, positions: Tensor | None = None) -> Prefix:
        """Run the layers up to the cut on ``tokens`` and stop there.

        Args:
            tokens: ``[batch, position]``.
            visible: ``[batch, position, position]`` bool, the positions that each position attends to, if not all
                before it. Not every architecture supports it: callers must test that first.
            positions: ``[batch, position]``, each token's position in its text; given together with ``visible``.
        """
        tokens = tokens.to(self.model.device)
        wanted = [hook.whole for hook in (*self.hook_in.hooks, *self.hook_out.hooks)]
        if not self._outputs_are_residual:
            wanted.insert(0, f"blocks.{self._start}.hook_in")
        seen = self._seen(tokens, wanted, [], visible, positions)
        self._shapes = [seen[hook.whole].shape[2:] for hook in self.hook_out.hooks]
        flat = side_by_side(seen, self.hook_out)
        residual = flat if self._outputs_are_residual else seen[wanted[0]]
        same = self.hook_in == self.hook_out and self.context is None
        return Prefix(tokens, flat if same else self._read(seen, visible), flat, residual)

    def _read(self, seen: dict[str, Tensor], visible: Tensor | None) -> Tensor:
        """What the autoencoder reads, ``[batch, position, d_in]``."""
        inputs = side_by_side(seen, self.hook_in)
        return inputs if self.context is None else self.context.read(inputs, visible)

    @torch.no_grad()
    def inputs_at(
        self, tokens: Tensor, rows: Tensor, places: Tensor, visible: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """Activations ``[wanted, d_in]`` at ``hook_in`` at some positions only: the last MLP below the cut runs only there.

        Args:
            tokens, visible, positions: as for ``prefix``.
            rows, places: ``[wanted]`` each, without duplicates.
        """
        tokens, rows, places = (each.to(self.model.device) for each in (tokens, rows, places))
        hooks = self._last_mlp_at(tokens.shape, rows, places) if self.context is None else []
        seen = self._seen(tokens, [hook.whole for hook in self.hook_in.hooks], hooks, visible, positions)
        return self._read(seen, visible)[rows, places]

    def at_ends(self, table: Tensor, lengths: Tensor) -> Tensor | None:
        """Activations ``[texts, d_in]`` at the ends of texts, for a cut that needs no pass over them; None for all others.

        ``table``: ``[texts, width]``, each text at the left; ``lengths``: ``[texts]``.
        """
        return None

    def _last_mlp_at(self, shape: torch.Size, rows: Tensor, places: Tensor) -> HookFunctions:
        """Hooks that give the MLP of the cut's block only those positions of ``shape``, with zeros elsewhere."""
        mlp = f"blocks.{self.hook_in.layer}.mlp"
        if not self.hook_in.is_block_output or f"{mlp}.hook_in" not in self.model.bridge.hook_dict:
            return []

        return only_at(mlp, shape, rows, places)

    def _seen(
        self, tokens: Tensor, wanted: list[str], hooks: HookFunctions, visible: Tensor | None, positions: Tensor | None
    ) -> dict[str, Tensor]:
        """The activations at the ``wanted`` hooks; the pass ends once all were read."""
        seen: dict[str, Tensor] = {}

        def keep(name: str) -> Callable[..., Tensor | None]:
            def hook_function(activation: Tensor, hook: Any) -> None:
                seen[name] = activation.to(self.model.device)
                if all(each in seen for each in wanted):
                    raise Stop

            return hook_function

        attention = {} if visible is None else self._attention(visible, positions)
        self.model.run(tokens, [*hooks, *((name, keep(name)) for name in dict.fromkeys(wanted))], **attention)
        return seen

    def _attention(self, visible: Tensor, positions: Tensor | None) -> dict[str, Tensor]:
        model = self.model
        mask = torch.zeros(visible.shape, dtype=model.dtype, device=model.device)
        mask.masked_fill_(~visible.to(model.device), torch.finfo(model.dtype).min)
        places = {} if positions is None else {"position_ids": positions.to(model.device)}
        return {"attention_mask": mask.unsqueeze(1), **places}

    @torch.no_grad()
    def suffix(self, outputs: Tensor, prefix: Prefix, cache: Any = None) -> Tensor:
        """As ``differentiable_suffix``, without gradients."""
        return self.differentiable_suffix(outputs, prefix, cache)

    @torch.no_grad()
    def suffix_end(self, outputs: Tensor, prefix: Prefix) -> Tensor:
        """As ``suffix``, up to the input of the unembedding, ``[batch, position, d_model]`` (``LanguageModel.readout``)."""
        seen: list[Tensor] = []

        def keep(activation: Tensor, hook: Any) -> None:
            seen.append(activation)
            raise Stop

        self._run_above(outputs.to(self.model.dtype), prefix, [(READOUT_HOOK, keep)])
        return seen[0]

    def differentiable_suffix(self, outputs: Tensor, prefix: Prefix, cache: Any = None, **inputs: Tensor) -> Tensor:
        """Replace the activations at ``hook_out`` by ``outputs`` and run the layers above.

        Args:
            outputs: ``[batch, position, d_out]``.
            prefix: the result of ``prefix`` for these tokens.
            cache: keys and values of the positions before these (``saebench.lm.continuation``); it is extended.
            inputs: passed to the model with the tokens.

        Returns:
            Logits ``[batch, position, vocabulary]``.
        """
        logits = self._run_above(outputs.to(self.model.dtype), prefix, [], cache, **inputs)
        assert logits is not None
        return logits

    def _run_above(
        self, outputs: Tensor, prefix: Prefix, hooks: HookFunctions, cache: Any = None, **inputs: Tensor
    ) -> Tensor | None:
        """Run the layers above with ``outputs`` in place; None where a hook ended the pass."""
        residual = outputs
        if not self._outputs_are_residual:
            residual, hooks = prefix.residual, [*self.replacing(outputs, prefix), *hooks]
        if self._start == 0:  # no block below returns the residual: insert it at the first block's input
            hooks = [("blocks.0.hook_in", lambda activation, hook: residual.to(activation.device)), *hooks]
        with self.model.starting_at(self._start, residual):
            return self.model.run(prefix.tokens, hooks, cache, **inputs)

    @property
    def first_layer_above(self) -> int:
        """The first block that the suffix runs."""
        return self._start

    def replacing(self, outputs: Tensor, prefix: Prefix) -> HookFunctions:
        """Hooks that put ``outputs`` (``[batch, position, d_out]``) in place, at every place that is written."""
        hooks: HookFunctions = []
        widths = [part.stop - part.start for part in self.parts.values()] or [outputs.shape[-1]]
        for hook, shape, part in zip(self.hook_out.hooks, self._shapes, outputs.split(widths, dim=-1), strict=True):
            hooks.append((hook.whole, replacement(part, shape, hook.head)))
        if self.hook_out.point == "hook_resid_mid":
            # The hook is at the input of the MLP branch; the residual stream bypasses it and needs the change too.
            change = outputs - prefix.outputs
            hooks.append(
                (
                    f"blocks.{self.hook_out.layer}.hook_out",
                    lambda activation, hook: activation + change.to(activation.device),
                )
            )
        return hooks
