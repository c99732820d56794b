"""Reading one token with its gradient, as a flat list of kernels once that pays.

A step of steering reads one token a row again and again in the same shapes, and in small models most of its time goes
into Python and the recording of gradients. After a while the forward and the backward pass are traced together, cut in
two where the gradient of the logits comes in, and from then on called as two plain sequences of kernels.
"""

import logging
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx
from transformers import PreTrainedModel

from lit_narrative.errors import first_line
from lit_narrative.steering.pplm.one_token import Slots, read_one

logger = logging.getLogger(__name__)
AFTER = 256
"""Calls in one shape before it is traced, which takes as long as some hundred calls."""
KEPT = 8
"""Shapes of one model that are kept."""


class Inputs(NamedTuple):
    """What one token is read with; in the notation of :mod:`lit_narrative.steering.pplm.one_token`.

    Attributes:
        tokens: (B, 1).
        positions: (B, 1).
        bias: (N, 1, C).
        column: (1,).
        reach: (B, 1, 1, C) how far each column may move.
        pairs: (2, L, B, H, C, D) keys and values, changed in place at the column.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    bias: torch.Tensor
    column: torch.Tensor
    reach: torch.Tensor
    pairs: torch.Tensor


class Gradient(NamedTuple):
    """The gradient with regard to keys and values, as outer products.

    Attributes:
        columns: (2, L, B, H, g, C), already weighted by the reach.
        widths: (2, L, B, H, g, D).
        squares: (L, B) squared norms, keys and values together.
    """

    columns: torch.Tensor
    widths: torch.Tensor
    squares: torch.Tensor


class EagerPass:
    """A forward pass, and the backward pass that belongs to it."""

    def __init__(self, base: PreTrainedModel) -> None:
        self.base = base

    def forward(self, inputs: Inputs, learns: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Float32 logits (B, V) and final hidden states (B, d)."""
        probe = torch.zeros((), device=inputs.pairs.device, requires_grad=True) if learns else None
        self.inputs, self.probe = inputs, probe
        self.slots = [
            Slots(keys, values, inputs.bias, inputs.column, probe)
            for keys, values in zip(*(side.flatten(1, 2).unbind(0) for side in inputs.pairs.unbind(0)), strict=True)
        ]
        with torch.set_grad_enabled(learns):
            self.logits, hidden = read_one(self.base, inputs.tokens, inputs.positions, self.slots)
        return self.logits.detach(), hidden.detach()

    def backward(self, grad: torch.Tensor) -> Gradient:
        """The gradient of all blocks, given that of the logits."""
        torch.autograd.grad(self.logits, self.probe, grad, allow_unused=True)  # type: ignore[arg-type]
        scores, queries, weights, outs = zip(*(slots.found for slots in self.slots), strict=True)  # type: ignore[misc]
        shape = self.inputs.pairs.shape[:4]
        columns = torch.stack([*scores, *weights]).unflatten(1, shape[2:4]).unflatten(0, shape[:2]) * self.inputs.reach
        widths = torch.stack([*queries, *outs]).unflatten(1, shape[2:4]).unflatten(0, shape[:2])
        inner, outer = columns.float(), widths.float()
        return Gradient(columns, widths, ((inner @ inner.mT) * (outer @ outer.mT)).sum((0, 3, 4, 5)))


class FlatPass:
    """The same as two sequences of kernels, for one shape of inputs."""

    def __init__(self, base: PreTrainedModel, inputs: Inputs, vocabulary: int) -> None:
        def whole(*given: torch.Tensor) -> tuple[torch.Tensor, ...]:
            eager = EagerPass(base)
            read = eager.forward(Inputs(*given[:-1]), learns=True)
            return (*read, *eager.backward(given[-1]))

        grad = inputs.pairs.new_zeros(inputs.tokens.shape[0], vocabulary, dtype=torch.float32)
        self.first, self.second = split(make_fx(whole)(*inputs, grad))
        self.saved: Sequence[torch.Tensor] = ()

    def forward(self, inputs: Inputs, learns: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """As of :class:`EagerPass`; what the backward pass needs is kept whether it is asked for or not."""
        with torch.no_grad():
            logits, hidden, *self.saved = self.first(*inputs)
        return logits, hidden

    def backward(self, grad: torch.Tensor) -> Gradient:
        """As of :class:`EagerPass`."""
        with torch.no_grad():
            return Gradient(*self.second(*self.saved, grad))


Kernels = Callable[..., tuple[torch.Tensor, ...]]


def split(traced: fx.GraphModule) -> tuple[Kernels, Kernels]:
    """Cut a trace in two: what does not depend on its last argument, and what does.

    The first gives its own outputs (two) and what the second needs; the second takes these and the last argument.
    """
    graph, constants = traced.graph, _constants(traced)
    nodes = [node for node in graph.nodes if node.op != "output"]
    last = [node for node in nodes if node.op == "placeholder"][-1]
    later: set[fx.Node] = {last}
    for node in nodes:
        if any(source in later for source in node.all_input_nodes):
            later.add(node)
    (outputs,) = next(node for node in graph.nodes if node.op == "output").args
    asked, sooner = set(outputs[2:]), [node for node in nodes if node not in later and node not in constants]
    needed = [node for node in sooner if node in asked or any(user in later for user in node.users)]
    first = _part(constants, sooner, [*outputs[:2], *needed], [])
    second = _part(constants, [n for n in nodes if n in later and n is not last], list(outputs[2:]), [*needed, last])
    return first, second


def _constants(traced: fx.GraphModule) -> dict[fx.Node, torch.Tensor]:
    """Weights and their transposes; drops what does nothing from the graph."""
    graph, aten = traced.graph, torch.ops.aten
    for node in [node for node in graph.nodes if node.target is aten.detach.default]:
        node.replace_all_uses_with(node.args[0])
        graph.erase_node(node)
    _merge_views(graph)
    graph.eliminate_dead_code()
    found: dict[fx.Node, torch.Tensor] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            found[node] = getattr(traced, str(node.target)).detach()
        elif node.target is aten.t.default and node.args[0] in found:
            found[node] = found[node.args[0]].t()
    return found


def _merge_views(graph: fx.Graph) -> None:
    """Make one view of a chain of views that all show the same numbers in the same order, or none at all."""
    aten = torch.ops.aten
    views = {aten.view.default, aten._unsafe_view.default, aten.transpose.int, aten.unsqueeze.default}
    for node in list(graph.nodes):
        source = node
        while source.target in views and _in_order(source) and _in_order(source.args[0]):
            source = source.args[0]
        if source is node:
            continue
        shape = node.meta["tensor_meta"].shape
        if source.meta["tensor_meta"].shape == shape:
            node.replace_all_uses_with(source)
        else:
            node.target, node.args = aten.view.default, (source, list(shape))


def _in_order(node: fx.Node) -> bool:
    """Whether a tensor lies in memory as it is read, without gaps."""
    if (meta := node.meta.get("tensor_meta")) is None:
        return False
    expected = 1
    for size, stride in zip(reversed(meta.shape), reversed(meta.stride), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _part(
    constants: dict[fx.Node, torch.Tensor], nodes: list[fx.Node], outputs: list[fx.Node], inputs: list[fx.Node]
) -> Kernels:
    """The kernels of ``nodes`` as a function of ``inputs``, or of the placeholders among them."""
    used = [c for c in constants if c in outputs or any(user in nodes for user in c.users)]
    graph = fx.Graph()
    known = {node: graph.placeholder(f"given_{place}") for place, node in enumerate([*used, *inputs])}
    for node in nodes:
        known[node] = graph.node_copy(node, known.__getitem__)
    graph.output(tuple(known[node] for node in outputs))
    return partial(_compiled(graph), None, *(constants[node] for node in used))


def _compiled(graph: fx.Graph) -> Kernels:
    """The graph as a function that calls each kernel itself, without the look-up and the frame around it."""
    code = graph.python_code("self")
    kernels: dict[str, Any] = {}

    def direct(match: re.Match[str]) -> str:
        overload = torch.ops
        for part in match[1].split("."):
            overload = getattr(overload, part)
        name = "_".join(("kernel", *match[1].split(".")))
        kernels[name] = overload._op  # type: ignore[attr-defined]
        return f"{name}("

    source = re.sub(r"torch\.ops\.([\w.]+)\(", direct, code.src)
    scope: dict[str, Any] = {**code.globals, **kernels}
    exec(source, scope)
    forward: Kernels = scope["forward"]
    return forward


Pass = EagerPass | FlatPass
_Key = tuple[Any, ...]
_flat: WeakKeyDictionary[PreTrainedModel, dict[_Key, FlatPass]] = WeakKeyDictionary()
_calls: WeakKeyDictionary[PreTrainedModel, dict[_Key, int]] = WeakKeyDictionary()
_untraceable: WeakSet[PreTrainedModel] = WeakSet()


def make_pass(base: PreTrainedModel, inputs: Inputs, vocabulary: int) -> Pass:
    """The pass for such inputs: flat once their shape has come up often; nothing may be hooked into the model.

    A model that cannot be traced, as its code asks for the value of a tensor (dynamic rotary positions), stays eager.
    """
    if base in _untraceable:
        return EagerPass(base)
    key = (*inputs.pairs.shape, inputs.pairs.dtype, inputs.pairs.device)
    flat, calls = _flat.setdefault(base, {}), _calls.setdefault(base, {})
    calls[key] = calls.get(key, 0) + 1
    if calls[key] < AFTER:
        return EagerPass(base)
    if key not in flat:
        if len(flat) == KEPT:
            flat.pop(next(iter(flat)))
        try:
            flat[key] = FlatPass(base, inputs, vocabulary)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # a trace that fails says nothing of the model: the eager pass will
            _untraceable.add(base)
            logger.info("%s cannot be traced and is read the slower way: %s", type(base).__name__, first_line(error))
            return EagerPass(base)
    return flat[key]
