"""A causal LM with a hook on every activation: TransformerLens' bridge around a copy of it, without the network.

Tokens go in and tensors come out. The bridge's tokenizer and text methods are never used: they look for the model's
name on the hub, and add or drop tokens. transformer_lens is imported where it is used, since it takes seconds.

Hook names are TransformerLens': ``blocks.0.hook_resid_pre``, ``blocks.0.attn.hook_z``, ``blocks.0.hook_mlp_out`` …
"""

import copy
import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lit_narrative.adapters import merge_adapters
from lit_narrative.errors import UserError, first_line

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


Hook = tuple[str, Callable[[Tensor, Any], Tensor | None]]
"""A hook's name, and a function of (activation, hook point); where it returns None, the activation stays."""
TOLERANCE = 1e-4
"""Largest difference of logits between the bridge and its model, as a share of the largest logit."""
TESTED = "GPT2LMHeadModel, LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM"


class Shape(NamedTuple):
    """Sizes of a bridged model; with grouped queries there are fewer ``kv_heads`` than ``heads``."""

    layers: int
    heads: int
    kv_heads: int
    width: int
    vocabulary: int


class Bounds(NamedTuple):
    """How much of a model is analysed where no setting says it.

    Attributes:
        layers: how many, spread from the first to the last; None: all.
        rows: of each split.
        pairs: of each split.
        edges: that ACDC tries one by one.
    """

    layers: int | None
    rows: int
    pairs: int
    edges: int

    def spread(self, count: int) -> tuple[int, ...] | Literal["all"]:
        """The layers, of a model that has ``count``."""
        if self.layers is None or self.layers >= count:
            return "all"
        return tuple(round(step * (count - 1) / (self.layers - 1)) for step in range(self.layers))


BOUNDS = ((10e6, Bounds(None, 128, 128, 2000)), (1e9, Bounds(3, 16, 4, 20)), (float("inf"), Bounds(3, 8, 2, 10)))
"""By the weights of a model's blocks, up to which: work of minutes on two cores, of larger ones tens of minutes."""


def block_weights(layers: int, width: int) -> int:
    """The weights of a model's blocks, about: 12 · layers · width², as of GPT-2; embeddings are not counted."""
    return 12 * layers * width**2


def bounds_of(layers: int, width: int) -> Bounds:
    """The bounds for a model of that size."""
    return next(bounds for most, bounds in BOUNDS if block_weights(layers, width) <= most)


def build_bridge(lm: nn.Module) -> "TransformerBridge":
    """Bridge a copy of a causal LM: float32, evaluation mode, adapters merged, parameters frozen.

    The bridge is a snapshot: later changes of ``lm`` do not reach it, and ``lm`` stays as it is. One pass of both
    models over the same tokens must give the same logits.

    Args:
        lm: a transformers model, with or without peft's adapters around it.

    Raises:
        UserError: TransformerLens has no bridge for this kind of model, or one that computes something else.
    """
    # The public boot_transformers takes a module too, but looks its configuration and tokenizer up on the hub by name.
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    copied: Any = copy.deepcopy(lm).float().eval()
    tokens = _some_tokens(copied)
    with torch.no_grad():  # of the model as it is, before anything in it is merged
        expected = copied(input_ids=tokens).logits
    plain = as_transformers(copied)
    kind = type(plain).__name__
    try:
        bridge = build_bridge_from_module(plain, kind, hf_config=plain.config, model_name="local")
        bridge.requires_grad_(False)  # it splits query, key and value into new parameters, which are not frozen yet
        actual = run(bridge, tokens)
    except Exception as error:  # of all kinds, on models that TransformerLens was not written for
        raise UserError(f"no circuit analysis of a {kind} ({first_line(error)}); it is tested on {TESTED}") from error
    check_agreement(expected, actual, kind)
    return bridge


def as_transformers(lm: nn.Module) -> PreTrainedModel:
    """The model as transformers builds it, changed in place: frozen, adapters merged, without our fast layers."""
    plain = lm if isinstance(lm, PreTrainedModel) else merge_adapters(lm)
    for name, module in plain.named_modules():
        # Our fast layers subclass Conv1D; TransformerLens tells GPT-2's transposed weights by the exact class name.
        if isinstance(module, Conv1D) and ".mlp." not in name:
            module.__class__ = Conv1D
    return plain.requires_grad_(False)


def check_agreement(expected: Tensor, actual: Tensor, kind: str) -> None:
    """Check that a bridge gives the logits of its model.

    Args:
        expected: (n, T, V) logits of the model.
        actual: (n, T, V) logits of the bridge.
        kind: the model's class, for the message.

    Raises:
        UserError: they differ by more than 1e-4 of the largest logit (of 1, if that is larger).
    """
    allowed = TOLERANCE * max(1.0, expected.abs().max().item())
    difference = (expected - actual).abs().max().item()
    if not difference <= allowed:  # so written, NaN is refused too
        raise UserError(
            f"the bridge of a {kind} gives other logits than the model (they differ by {difference:.2g}, allowed is "
            f"{allowed:.2g}), so an analysis would be of another model; circuit analysis is tested on {TESTED}"
        )


def _some_tokens(lm: Any) -> Tensor:
    """Ids (2, up to 16) from all over the vocabulary; the multiplier is a prime, so they do not repeat early."""
    config: Any = lm.config.get_text_config()
    length = min(16, getattr(config, "max_position_embeddings", 16))
    ids = torch.arange(2 * length, device=lm.device) * 7919 % config.vocab_size
    return ids.view(2, length)


def shape(bridge: "TransformerBridge") -> Shape:
    """The sizes of the bridged model."""
    config = bridge.cfg
    return Shape(
        config.n_layers, config.n_heads, config.n_key_value_heads or config.n_heads, config.d_model, config.d_vocab
    )


def run(
    bridge: "TransformerBridge",
    tokens: Tensor,
    mask: Tensor | None = None,
    hooks: Sequence[Hook] = (),
    columns: Tensor | None = None,
    layers: int | None = None,
) -> Tensor:
    """Logits of one forward pass; gradients are recorded unless the caller switched them off.

    Args:
        bridge: the model.
        tokens: (n, T) ids.
        mask: (n, T) bool, False where a row is padded; None without padding.
        hooks: activations to read or to change.
        columns: (C,) the columns whose logits are computed; None for all.
        layers: blocks that are run, from the first on; None: all.

    Returns:
        (n, T, V), or (n, C, V); with fewer layers than there are, the stream behind the last one, (n, T, d).

    Raises:
        UserError: a hook does not exist; the message has the nearest names. Or the model passes it by, so that nothing
            would be read or changed.
    """
    options: dict[str, Any] = {} if columns is None else {"logits_to_keep": columns}
    if mask is not None and not mask.all():
        options["attention_mask"] = mask.long()
    if layers is not None and layers < shape(bridge).layers:
        options["stop_at_layer"] = layers
    with _hooked(bridge, hooks):
        return bridge(tokens, use_cache=False, **options)


@contextmanager
def _hooked(bridge: "TransformerBridge", hooks: Sequence[Hook]) -> Iterator[None]:
    """Attach hooks. The bridge's own ``run_with_hooks`` lists all hook points of the model again for each of them."""
    points = bridge.hook_dict if hooks else {}
    for name in {name for name, _ in hooks} - points.keys():
        raise unknown_hook(bridge, name)
    reached: set[str] = set()

    def noted(name: str, change: Callable[[Tensor, Any], Tensor | None]) -> Callable[[Tensor, Any], Tensor | None]:
        def apply(activation: Tensor, hook: Any) -> Tensor | None:
            reached.add(name)
            return change(activation, hook)

        return apply

    try:
        for name, change in hooks:
            bridge.check_hooks_to_add(name)
            points[name].add_hook(noted(name, change))
        yield
    finally:
        for name, _ in hooks:
            points[name].remove_hooks("fwd")
    # TransformerLens gives some kinds of models hooks that their layers never call.
    for name, _ in hooks:
        if name not in reached:
            raise UserError(
                f"a {bridge.cfg.architecture} never reaches its hook {name!r}, so that nothing can be read or changed "
                f"there; leave this analysis out (circuit analysis is tested on {TESTED})"
            )


@contextmanager
def skipped(bridge: "TransformerBridge", layers: int) -> Iterator[None]:
    """Within, the first blocks hand on what they are given: for runs that set the stream behind them by a hook."""
    below = list(bridge.blocks)[:layers]
    for block in below:
        # Of this instance, before its class's own; a bridge's own `__setattr__` would reach the model within.
        object.__setattr__(block, "forward", lambda hidden_states, *args, **kwargs: hidden_states)
    try:
        yield
    finally:
        for block in below:
            object.__delattr__(block, "forward")


def unknown_hook(bridge: "TransformerBridge", name: str) -> UserError:
    """The error for a hook that the model does not have, with the nearest names."""
    near = difflib.get_close_matches(name, list(bridge.hook_dict), n=4, cutoff=0.5)
    known = ", ".join(near or ["blocks.0.hook_resid_pre", "blocks.0.attn.hook_z", "blocks.0.hook_mlp_out"])
    return UserError(f"the model has no hook {name!r}; {'near names' if near else 'hooks are such as'}: {known}")


def check_layers(bridge: "TransformerBridge", layers: Literal["all"] | Iterable[int]) -> tuple[int, ...]:
    """The layers asked for, each once, in order.

    Raises:
        UserError: one is out of range, or there is none.
    """
    count = shape(bridge).layers
    chosen = tuple(range(count)) if layers == "all" else tuple(sorted(set(layers)))
    wrong = [layer for layer in chosen if not 0 <= layer < count]
    if wrong or not chosen:
        raise UserError(f"layers={list(chosen)}: the model has layers 0 to {count - 1}; name some of them, or `all`")
    return chosen


@contextmanager
def separate_inputs(bridge: "TransformerBridge") -> Iterator[None]:
    """Within, every head's query, key and value, and every MLP, has a hook on its own copy of the residual stream.

    The hooks are ``blocks.{l}.hook_{q,k,v}_input`` (n, T, heads, d), ``blocks.{l}.hook_mlp_in`` (n, T, d) and
    ``blocks.{l}.attn.hook_result`` (n, T, heads, d): what each head writes, without the shared bias.

    Raises:
        UserError: TransformerLens has no such hooks for this kind of model.
    """
    try:
        _separate(bridge, True)
    except NotImplementedError as error:
        _separate(bridge, False)  # the first switches may be on already
        raise UserError(f"a {bridge.cfg.architecture} has no inputs of single heads to patch: {error}") from error
    try:
        yield
    finally:
        _separate(bridge, False)


def _separate(bridge: "TransformerBridge", on: bool) -> None:
    for switch in (bridge.set_use_attn_result, bridge.set_use_split_qkv_input, bridge.set_use_hook_mlp_in):
        switch(on)


STREAM = {"resid_pre": "hook_resid_pre", "resid_mid": "hook_resid_mid", "resid_post": "hook_resid_post"}
WHOLE = tuple(STREAM)
"""The residual stream itself: where two prompts differ it carries all of the difference, whatever the model does."""
STREAM |= {"attn_out": "hook_attn_out", "mlp_out": "hook_mlp_out"}
HEADS = {"z": "attn.hook_z", "q": "attn.hook_q", "k": "attn.hook_k", "v": "attn.hook_v", "pattern": "attn.hook_pattern"}
SITES = STREAM | HEADS
"""Activations of a block by their short names; those in ``HEADS`` are patched one head at a time."""
