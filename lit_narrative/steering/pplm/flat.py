"""Reading one token with its gradient, as a flat sequence of kernels for shapes that recur.

Gradient steps read one token per row many times in the same shapes, and in small models most of the time goes into
Python and autograd. After a number of calls the forward and the backward pass are traced together, split where the
gradient of the logits enters, and from then on called as two plain sequences of kernels.
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
TRACE_AFTER = 256
"""Calls in one shape before it is traced: a trace takes as long as some hundred calls."""
MAX_TRACES = 8
"""Largest number of traces kept for one model: each refers to a copy of the graph, and shapes grow with the text."""


class Inputs(NamedTuple):
    """Inputs of reading one token, in the notation of `lit_narrative.steering.pplm.one_token`.

    Attributes:
        tokens: (B, 1).
        positions: (B, 1).
        bias: (N, 1, C).
        column: (1,).
        reach: (B, 1, 1, C) weight of each column's gradient.
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
        columns: (2, L, B, H, g, C), weighted by the reach.
        widths: (2, L, B, H, g, D).
        squares: (L, B) squared norms, keys and values together.
    """

    columns: torch.Tensor
    widths: torch.Tensor
    squares: torch.Tensor


class EagerPass:
    """A forward pass and its backward pass, in ordinary autograd."""

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
        # The gradient of the probe itself is None: asking for it makes autograd run, and fills the slots on its way.
        torch.autograd.grad(self.logits, self.probe, grad, allow_unused=True)  # type: ignore[arg-type]
        scores, queries, weights, outs = zip(*(slots.factors for slots in self.slots), strict=True)  # type: ignore[misc]
        shape = self.inputs.pairs.shape[:4]
        # (2, L, B, H, g, C): a key's gradient is ds q' and a value's w do', so scores go with keys and weights with
        # values.
        columns = torch.stack([*scores, *weights]).unflatten(1, shape[2:4]).unflatten(0, shape[:2]) * self.inputs.reach
        widths = torch.stack([*queries, *outs]).unflatten(1, shape[2:4]).unflatten(0, shape[:2])
        # ||sum_g c_g w_g'||^2 = sum_{g,h} (c_g . c_h)(w_g . w_h): the product itself is never formed.
        inner, outer = columns.float(), widths.float()
        return Gradient(columns, widths, ((inner @ inner.mT) * (outer @ outer.mT)).sum((0, 3, 4, 5)))


class FlatPass:
    """The same two passes as traced kernels, for one shape of inputs."""

    def __init__(self, base: PreTrainedModel, inputs: Inputs, vocabulary: int) -> None:
        def whole(*given: torch.Tensor) -> tuple[torch.Tensor, ...]:
            eager = EagerPass(base)
            read = eager.forward(Inputs(*given[:-1]), learns=True)
            return (*read, *eager.backward(given[-1]))

        grad = inputs.pairs.new_zeros(inputs.tokens.shape[0], vocabulary, dtype=torch.float32)
        # Tracing runs the pass once on these inputs; it writes the new token's column, which the next pass writes
        # again.
        self.first, self.second = split(make_fx(whole)(*inputs, grad))
        self.saved: Sequence[torch.Tensor] = ()

    def forward(self, inputs: Inputs, learns: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """As `EagerPass.forward`; values for the backward pass are kept in any case."""
        with torch.no_grad():
            logits, hidden, *self.saved = self.first(*inputs)
        return logits, hidden

    def backward(self, grad: torch.Tensor) -> Gradient:
        """As `EagerPass.backward`."""
        with torch.no_grad():
            return Gradient(*self.second(*self.saved, grad))


Kernels = Callable[..., tuple[torch.Tensor, ...]]


def split(traced: fx.GraphModule) -> tuple[Kernels, Kernels]:
    """Split a trace into the nodes that do not depend on its last argument, and those that do.

    The first part returns the first two outputs and the values that the second part needs; the second part takes these
    and the last argument, and returns the other outputs.
    """
    graph, constants = traced.graph, _constants(traced)
    nodes = [node for node in graph.nodes if node.op != "output"]
    last = [node for node in nodes if node.op == "placeholder"][-1]
    # Nodes stand in the order of execution, so one sweep finds all that depends on the gradient.
    later: set[fx.Node] = {last}
    for node in nodes:
        if any(source in later for source in node.all_input_nodes):
            later.add(node)
    (outputs,) = next(node for node in graph.nodes if node.op == "output").args
    wanted, sooner = set(outputs[2:]), [node for node in nodes if node not in later and node not in constants]
    needed = [node for node in sooner if node in wanted or any(user in later for user in node.users)]
    first = _part(constants, sooner, [*outputs[:2], *needed], [])
    second = _part(constants, [n for n in nodes if n in later and n is not last], list(outputs[2:]), [*needed, last])
    return first, second


def _constants(traced: fx.GraphModule) -> dict[fx.Node, torch.Tensor]:
    """Weights and their transposes, by node; operations without effect are removed from the graph."""
    graph, aten = traced.graph, torch.ops.aten
    for node in [node for node in graph.nodes if node.target is aten.detach.default]:
        node.replace_all_uses_with(node.args[0])
        graph.erase_node(node)
    _merge_views(graph)
    graph.eliminate_dead_code()
    constants: dict[fx.Node, torch.Tensor] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            # Detached, and so sharing memory with the weight: weights that are changed later are read as they are then.
            constants[node] = getattr(traced, str(node.target)).detach()
        elif node.target is aten.t.default and node.args[0] in constants:
            constants[node] = constants[node.args[0]].t()
    return constants


def _merge_views(graph: fx.Graph) -> None:
    """Merge each chain of views that keep the order of the numbers in memory into one view, or into none."""
    aten, views = torch.ops.aten, _view_operations()
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


def _view_operations() -> set[Any]:
    aten = torch.ops.aten
    return {aten.view.default, aten._unsafe_view.default, aten.transpose.int, aten.unsqueeze.default}


def _in_order(node: fx.Node) -> bool:
    """Whether a tensor is contiguous in memory."""
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
    known = {node: graph.placeholder(f"given_{index}") for index, node in enumerate([*used, *inputs])}
    for node in nodes:
        known[node] = graph.node_copy(node, known.__getitem__)
    graph.output(tuple(known[node] for node in outputs))
    return partial(_compiled(graph), None, *(constants[node] for node in used))


def _compiled(graph: fx.Graph) -> Kernels:
    """The graph as a function that calls each kernel directly, without the lookup and call frame of ``torch.ops``."""
    code = graph.python_code("self")
    kernels: dict[str, Any] = {}

    def direct(match: re.Match[str]) -> str:
        name = "_".join(("kernel", *match[1].split(".")))
        kernels[name] = _kernel(match[1])
        return f"{name}("

    source = re.sub(r"torch\.ops\.([\w.]+)\(", direct, code.src)
    scope: dict[str, Any] = {**code.globals, **kernels}
    exec(source, scope)
    forward: Kernels = scope["forward"]
    return forward


def _kernel(path: str) -> Any:
    """The function of an operator such as ``aten.view.default`` without the Python wrapper around it."""
    overload: Any = torch.ops
    for part in path.split("."):
        overload = getattr(overload, part)
    return overload._op


Pass = EagerPass | FlatPass
_Key = tuple[Any, ...]
_flat: WeakKeyDictionary[PreTrainedModel, dict[_Key, FlatPass]] = WeakKeyDictionary()
_calls: WeakKeyDictionary[PreTrainedModel, dict[_Key, int]] = WeakKeyDictionary()
_untraceable: WeakSet[PreTrainedModel] = WeakSet()


def make_pass(base: PreTrainedModel, inputs: Inputs, vocabulary: int) -> Pass:
    """The pass for these inputs: traced after enough calls in their shape. The model must have no hooks.

    A model that cannot be traced, because its code reads the value of a tensor (dynamic rotary positions), stays eager.
    """
    if base in _untraceable:
        return EagerPass(base)
    # The shapes of all other inputs follow from this one.
    key = (*inputs.pairs.shape, inputs.pairs.dtype, inputs.pairs.device)
    flat, calls = _flat.setdefault(base, {}), _calls.setdefault(base, {})
    calls[key] = calls.get(key, 0) + 1
    if calls[key] < TRACE_AFTER:
        return EagerPass(base)
    if key not in flat:
        if len(flat) == MAX_TRACES:
            flat.pop(next(iter(flat)))
        try:
            flat[key] = FlatPass(base, inputs, vocabulary)
        except torch.OutOfMemoryError:  # a RuntimeError too, and no sign that the model cannot be traced
            raise
        except RuntimeError as error:  # a fault of the model itself will show again in the eager pass
            _untraceable.add(base)
            logger.info("%s cannot be traced and is read the slower way: %s", type(base).__name__, first_line(error))
            return EagerPass(base)
    return flat[key]
