"""Faster modules give what the modules that they replace give."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.activations import ACT2FN
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.pytorch_utils import Conv1D

from lit_narrative.lm.fast.layers import FastConv1D, FastLinear, onednn_pays, use_faster_modules
from lit_narrative.lm.load import Lora, add_lora, load_lm
from tests.helpers import ARCHITECTURES, tiny_lm

ROWS, WIDTHS = (4, 40), [(128, 256), (256, 128)]  # large enough for oneDNN
needs_onednn = pytest.mark.skipif(
    not onednn_pays(torch.zeros(160, 128), nn.Linear(128, 256).weight), reason="a processor or build without it"
)


def plain(kind: type[nn.Module], given: int, out: int, bias: bool = True) -> nn.Module:
    torch.manual_seed(0)
    layer = nn.Linear(given, out, bias=bias) if kind is nn.Linear else Conv1D(out, given)
    nn.init.normal_(layer.weight)
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    return layer


def fast(layer: nn.Module) -> nn.Module:
    layer = copy.deepcopy(layer)
    layer.__class__ = FastLinear if isinstance(layer, nn.Linear) else FastConv1D
    return layer


def results(layer: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Output and the gradients of a loss that weighs every output differently."""
    x = x.clone().requires_grad_()
    out = layer(x)
    layer.zero_grad()
    (out.square() * torch.linspace(-1, 1, out.shape[-1])).sum().backward()
    grads = {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}
    assert x.grad is not None
    return {"out": out.detach(), "x": x.grad, **grads}


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(value, expected[name], atol=2e-6 * scale, rtol=0)


@needs_onednn
@pytest.mark.parametrize(("given", "out"), WIDTHS)
@pytest.mark.parametrize(("kind", "bias"), [(nn.Linear, True), (nn.Linear, False), (Conv1D, True)])
def test_linear_layers_and_their_gradients(kind: type[nn.Module], given: int, out: int, bias: bool) -> None:
    layer, x = plain(kind, given, out, bias), torch.randn(*ROWS, given)
    faster = fast(layer)
    assert type(faster(x.requires_grad_()).grad_fn).__name__.startswith("_Linear")
    assert_close(results(faster, x.detach()), results(layer, x.detach()))
    expected = results(faster, x.detach())["out"]
    with torch.no_grad():
        assert torch.equal(faster(x), expected)


@needs_onednn
@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
def test_frozen_weights_pass_the_gradient_on_and_keep_no_inputs(kind: type[nn.Module]) -> None:
    layer, x = plain(kind, 128, 256).requires_grad_(False), torch.randn(*ROWS, 128)
    faster = fast(layer)
    assert_close(results(faster, x), results(layer, x))
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):  # type: ignore[func-returns-value]
        faster(x.clone().requires_grad_())
    assert [tuple(t.shape) for t in kept] == [(256, 128)]


@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
@pytest.mark.parametrize("rows", [1, 300])
def test_shapes_that_do_not_pay_are_multiplied_as_ever(kind: type[nn.Module], rows: int) -> None:
    layer, x = plain(kind, 16, 24), torch.randn(rows, 16)
    assert torch.equal(fast(layer)(x), layer(x))


@needs_onednn
@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
def test_other_precisions_are_left_to_pytorch(kind: type[nn.Module]) -> None:
    layer, x = plain(kind, 128, 256), torch.randn(160, 128)
    faster = fast(layer)
    with torch.autocast("cpu", torch.bfloat16):
        assert faster(x).dtype == torch.bfloat16
        assert torch.equal(faster(x), layer(x))
    with torch.backends.mkldnn.flags(enabled=False):
        assert torch.equal(faster(x), layer(x))
    assert torch.equal(faster.bfloat16()(x.bfloat16()), layer.bfloat16()(x.bfloat16()))


@pytest.mark.parametrize("frozen", [False, True])
def test_norm_and_its_gradients(frozen: bool) -> None:
    norm, x = LlamaRMSNorm(24, eps=1e-3), torch.randn(*ROWS, 24)
    nn.init.normal_(norm.weight)
    norm.requires_grad_(not frozen)
    holder = use_faster_modules(nn.ModuleList([copy.deepcopy(norm)]))  # type: ignore[arg-type]
    faster = holder[0]  # type: ignore[index]
    assert type(faster(x.requires_grad_()).grad_fn).__name__ == "_RMSNormBackward"
    assert_close(results(faster, x.detach()), results(norm, x.detach()))
    assert torch.equal(faster(x), norm(x))
    with torch.no_grad():
        assert torch.equal(faster.bfloat16()(x.bfloat16()), norm.bfloat16()(x.bfloat16()))


@pytest.mark.parametrize("name", ["gelu_new", "gelu_fast"])
def test_tanh_gelu_and_its_gradient(name: str) -> None:
    holder = nn.Module()
    holder.act = ACT2FN[name]  # type: ignore[assignment]
    before: Any = holder.act
    use_faster_modules(holder)
    assert isinstance(holder.act, nn.GELU)
    x = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    for dtype, atol in ((torch.float64, 1e-9), (torch.float32, 1e-6)):
        left, right = x.to(dtype).requires_grad_(), x.to(dtype).requires_grad_()
        expected, found = before(left), holder.act(right)
        torch.testing.assert_close(found, expected, atol=atol, rtol=0)
        expected.square().sum().backward()
        found.square().sum().backward()
        torch.testing.assert_close(right.grad, left.grad, atol=20 * atol, rtol=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_models_are_built_and_loaded_with_them_and_stay_what_they_were(architecture: str, tmp_path: Path) -> None:
    lm = tiny_lm(architecture, hidden_size=64, scale=4)
    lm.save_pretrained(tmp_path)
    loaded, library = load_lm(str(tmp_path)).eval(), AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    for ours in (lm, loaded):
        kinds = {type(module) for module in ours.modules()}
        assert not kinds & {nn.Linear, Conv1D, type(ACT2FN["gelu_new"])}
        assert ours.config.to_dict().keys() == library.config.to_dict().keys()
        assert list(ours.state_dict()) == list(library.state_dict())
        ids = torch.arange(2 * 80).reshape(2, 80)
        torch.testing.assert_close(ours(ids).logits, library(ids).logits, atol=2e-5, rtol=0)


@pytest.mark.parametrize(("architecture", "target"), [("gpt2", "c_attn"), ("llama", "q_proj")])
def test_adapters_go_around_them(architecture: str, target: str) -> None:
    lm = tiny_lm(architecture, hidden_size=64)
    adapted = add_lora(lm, Lora(r=2, target_modules=[target]))
    inner = [m for name, m in adapted.named_modules() if name.endswith(f"{target}.base_layer")]
    assert inner
    assert all(isinstance(module, FastLinear | FastConv1D) for module in inner)
    merged = adapted.merge_and_unload()  # type: ignore[operator]
    assert torch.equal(merged(torch.tensor([[3, 4]])).logits, lm(torch.tensor([[3, 4]])).logits)
