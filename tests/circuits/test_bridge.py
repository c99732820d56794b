"""The bridge is the model: same logits, nothing of the model touched, and errors that help."""

import copy
from collections.abc import Iterator

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import LlamaConfig, OPTConfig, OPTForCausalLM, PreTrainedModel, Qwen2Config, Qwen3Config

from lit_narrative.circuits.analyses.attention import attend
from lit_narrative.circuits.analyses.attribution import attribute_edges
from lit_narrative.circuits.analyses.lens import logit_lens
from lit_narrative.circuits.analyses.patching import patch
from lit_narrative.circuits.bridge import (
    bounds_of,
    build_bridge,
    check_agreement,
    check_layers,
    run,
    separate_inputs,
    shape,
)
from lit_narrative.circuits.hooks import capture, read_hook
from lit_narrative.circuits.inputs import AnalysisInputs
from lit_narrative.errors import UserError
from lit_narrative.lm.load import build_lm
from tests.circuits.analyses.test_patching import random_contrasts
from tests.helpers import tiny_lm

SIZES = {
    "vocab_size": 60,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}
KINDS = ("gpt2", "llama", "llama_grouped", "qwen2", "qwen3")


def make(kind: str) -> PreTrainedModel:
    """A tiny model of a kind, its weights large enough for uneven choices."""
    if kind in ("gpt2", "llama"):
        lm = tiny_lm(kind, scale=4.0, vocabulary=60, positions=32)
    else:
        configs = {"llama_grouped": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
        lm = build_lm(configs[kind](**SIZES, num_key_value_heads=2)).eval()
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    return lm


def some_tokens(rows: int = 3, length: int = 9) -> Tensor:
    return torch.randint(0, 60, (rows, length), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_model(kind: str) -> None:
    lm, tokens = make(kind), some_tokens()
    expected = lm(tokens).logits
    bridge = build_bridge(lm)
    allowed = 1e-4 * max(1.0, float(expected.abs().max()))
    assert (run(bridge, tokens) - expected).abs().max() <= allowed
    with separate_inputs(bridge):
        assert (run(bridge, tokens) - expected).abs().max() <= allowed
    assert (run(bridge, tokens, columns=torch.tensor([3, 8])) - expected[:, [3, 8]]).abs().max() <= allowed


@pytest.mark.parametrize("kind", KINDS)
def test_padding_on_the_left_changes_nothing(kind: str) -> None:
    lm, tokens = make(kind), some_tokens()
    padded = torch.cat([torch.zeros(3, 4, dtype=torch.long), tokens], 1)
    mask = torch.ones_like(padded, dtype=torch.bool)
    mask[:, :4] = False
    assert (run(build_bridge(lm), padded, mask)[:, 4:] - lm(tokens).logits).abs().max() <= 1e-4


def test_the_model_stays_as_it_was() -> None:
    lm = tiny_lm("gpt2").train()
    before = copy.deepcopy(lm.state_dict())
    modules = [type(module) for module in lm.modules()]
    bridge = build_bridge(lm)
    assert lm.training
    assert not bridge.training
    assert [type(module) for module in lm.modules()] == modules
    assert all(parameter.requires_grad for parameter in lm.parameters())
    assert not any(parameter.requires_grad for parameter in bridge.parameters())
    assert all(torch.equal(value, before[name]) for name, value in lm.state_dict().items())


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_adapters_are_merged(architecture: str) -> None:
    target = "c_attn" if architecture == "gpt2" else "q_proj"
    config = LoraConfig(r=2, target_modules=[target], fan_in_fan_out=architecture == "gpt2", task_type="CAUSAL_LM")
    base = tiny_lm(architecture, scale=3.0, vocabulary=60)
    plain, tokens = base(some_tokens()).logits, some_tokens()
    lm = get_peft_model(base, config).eval()
    for name, parameter in lm.named_parameters():
        if "lora_B" in name:
            parameter.fill_(0.5)
    assert (lm(tokens).logits - plain).abs().max() > 0.01
    assert (run(build_bridge(lm), tokens) - lm(tokens).logits).abs().max() <= 1e-4


def test_half_precision_is_analysed_in_single() -> None:
    lm, tokens = tiny_lm("llama", vocabulary=60), some_tokens()
    half = copy.deepcopy(lm).bfloat16()
    assert run(build_bridge(half), tokens).dtype == torch.float32


def test_sizes_and_heads_that_share_keys() -> None:
    assert shape(build_bridge(make("llama_grouped"))) == (2, 4, 2, 16, 60)
    assert shape(build_bridge(make("gpt2"))) == (2, 2, 2, 16, 60)


def test_what_every_head_writes_adds_up_to_the_residual_stream() -> None:
    bridge = build_bridge(make("llama_grouped"))
    names = ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_post"]
    names += [f"blocks.{layer}.{name}" for layer in (0, 1) for name in ("attn.hook_result", "hook_mlp_out")]
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> tuple[str, object]:
        return name, lambda activation, hook: kept.__setitem__(name, activation)

    with separate_inputs(bridge):
        run(bridge, some_tokens(), hooks=[keep(name) for name in names])  # type: ignore[misc]
    written = [kept[name].sum(2) if "result" in name else kept[name] for name in names if "post" not in name]
    assert torch.allclose(sum(written), kept["blocks.1.hook_resid_post"], atol=1e-5)


def test_a_hook_that_does_not_exist_is_answered_with_near_ones() -> None:
    bridge = build_bridge(tiny_lm("gpt2"))
    hook = ("blocks.0.hook_resid_pree", lambda activation, hook: None)
    with pytest.raises(UserError, match=r"no hook 'blocks.0.hook_resid_pree'; near names: blocks.0.hook_resid_pre,"):
        run(bridge, some_tokens(), hooks=[hook])
    with pytest.raises(UserError, match="hooks are such as"):
        run(bridge, some_tokens(), hooks=[("@@@", lambda activation, hook: None)])


def test_layers_are_checked() -> None:
    bridge = build_bridge(tiny_lm("gpt2"))
    assert check_layers(bridge, "all") == (0, 1)
    assert check_layers(bridge, [1, 1]) == (1,)
    for wrong in ([2], [-1], []):
        with pytest.raises(UserError, match=r"the model has layers 0 to 1"):
            check_layers(bridge, wrong)


def test_an_unsupported_model_is_refused() -> None:
    from transformers import CTRLConfig, CTRLLMHeadModel

    lm = CTRLLMHeadModel(CTRLConfig(vocab_size=60, n_positions=32, n_embd=16, dff=16, n_layer=1, n_head=2)).eval()
    with pytest.raises(UserError, match="no circuit analysis of a CTRLLMHeadModel"):
        build_bridge(lm)


def test_a_bridge_that_computes_something_else_is_refused() -> None:
    logits = torch.zeros(1, 2, 3)
    check_agreement(logits + 100.0, logits + 100.009, "M")
    with pytest.raises(UserError, match="gives other logits than the model"):
        check_agreement(logits, logits + 2e-4, "M")
    with pytest.raises(UserError, match="gives other logits"):
        check_agreement(logits, logits * float("nan"), "M")


def test_a_run_lists_the_hook_points_once_and_leaves_no_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    bridge, seen = build_bridge(make("llama")), []
    listed = type(bridge).hook_dict.fget
    monkeypatch.setattr(type(bridge), "hook_dict", property(lambda self: seen.append(1) or listed(self)))
    names = [f"blocks.{layer}.{hook}" for layer in (0, 1) for hook in ("hook_resid_pre", "attn.hook_z", "hook_mlp_out")]
    calls: list[str] = []
    hooks = [(name, lambda activation, hook, name=name: calls.append(name)) for name in names]
    run(bridge, torch.tensor([[1, 2, 3]]), hooks=hooks)
    run(bridge, torch.tensor([[1, 2, 3]]))
    assert (sorted(calls), len(seen)) == (sorted(names), 1)


@pytest.mark.parametrize(("norm_before", "width"), [(True, 16), (True, 8), (False, 16), (False, 8)])
def test_what_transformer_lens_does_not_know_of_an_opt_is_said(norm_before: bool, width: int) -> None:
    """Every analysis of an OPT is done, or ends with one line that says what is lacking."""
    sizes = {"hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 300}
    config = OPTConfig(**sizes, word_embed_proj_dim=width, do_layer_norm_before=norm_before)
    lm, pairs = OPTForCausalLM(config).eval(), random_contrasts()
    if (norm_before, width) == (False, 16):
        with pytest.raises(UserError, match=r"no circuit analysis of a OPTForCausalLM \(Original component"):
            build_bridge(lm)
        return
    bridge = build_bridge(lm)
    patch(bridge, pairs)
    with pytest.raises(UserError, match="has no inputs of single heads to patch"):
        attribute_edges(bridge, pairs)
    with pytest.raises(UserError, match=r"never reaches its hook 'blocks\.0\.attn\.hook_pattern'.*leave this"):
        attend(bridge, pairs.inputs("clean"))
    if width == 8:
        with pytest.raises(UserError, match="the lens reads through the last norm"):
            logit_lens(bridge, pairs.inputs("clean"))


@pytest.mark.parametrize("hook", ["blocks.0.hook_resid_pre", "blocks.0.hook_mlp_out", "blocks.1.hook_resid_post"])
def test_a_hook_is_read_without_the_layers_behind_it(hook: str) -> None:
    bridge, tokens = build_bridge(make("llama_grouped")), some_tokens()
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[0, :3] = False
    inputs = AnalysisInputs(tokens, mask, tokens.roll(-1, 1))
    run_last: list[int] = []
    handle = bridge.blocks[1].register_forward_hook(lambda *call: run_last.append(1))
    found = read_hook(bridge, inputs, hook, batch_size=2)
    handle.remove()
    assert bool(run_last) == hook.startswith("blocks.1")
    assert torch.equal(found[mask], capture(bridge, inputs, [hook], batch_size=2)[1][hook][mask])
    assert run(bridge, tokens, mask).shape == (3, 9, 60)  # the next run is of the whole model


def test_of_a_large_model_a_few_layers_rows_and_edges_are_analysed() -> None:
    assert bounds_of(2, 64).spread(2) == "all"
    assert bounds_of(30, 576).spread(30) == (0, 14, 29)  # SmolLM2-135M
    assert bounds_of(32, 4096).spread(32) == (0, 16, 31)
    assert bounds_of(3, 1024).spread(3) == "all"  # no fewer layers than it has
    sizes = [bounds_of(layers, width) for layers, width in ((2, 64), (30, 576), (32, 4096))]
    for name in ("rows", "pairs", "edges"):
        numbers = [getattr(bounds, name) for bounds in sizes]
        assert numbers == sorted(numbers, reverse=True) and len(set(numbers)) == 3
