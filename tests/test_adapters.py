"""Merged adapters say what they said beside the weights."""

from pathlib import Path

import pytest
import torch
from peft import IA3Config, PromptTuningConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM

from lit_narrative.adapters import merge_adapters
from lit_narrative.circuits.bridge import build_bridge, run
from lit_narrative.errors import UserError
from lit_narrative.lm.load import Lora, add_lora
from tests.helpers import ARCHITECTURES, tiny_lm

IDS = torch.tensor([[5, 9, 2, 40, 17]])
EMBEDDING = {"gpt2": "wte", "llama": "embed_tokens"}
QUERIES = {"gpt2": "c_attn", "llama": "q_proj"}
TIED = (["lm_head"], ["embedding"], ["lm_head", "embedding"], ["embedding", "queries"], ["queries"])
CASES = [*((targets, True) for targets in TIED), (["lm_head", "embedding"], False)]


def adapted(architecture: str, targets: list[str], tied: bool = True) -> nn.Module:
    """A tiny model whose adapters on ``targets`` say something."""
    names = {"embedding": EMBEDDING[architecture], "queries": QUERIES[architecture]}
    spec = Lora(r=2, target_modules=[names.get(target, target) for target in targets])
    lm = add_lora(tiny_lm(architecture, scale=4.0, vocabulary=60, tie_embeddings=tied), spec).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in lm.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return lm


@torch.no_grad()
def logits(lm: nn.Module) -> torch.Tensor:
    result: torch.Tensor = lm(input_ids=IDS).logits
    return result


@pytest.mark.filterwarnings("ignore:Model with `tie_word_embeddings")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("targets", "tied"), CASES)
def test_merged_is_what_was_adapted(architecture: str, targets: list[str], tied: bool, tmp_path: Path) -> None:
    lm = adapted(architecture, targets, tied)
    expected = logits(lm)
    merged = merge_adapters(lm)
    torch.testing.assert_close(logits(merged), expected, atol=1e-4, rtol=1e-4)
    assert all(parameter.requires_grad for parameter in merged.parameters())
    assert merged.config.tie_word_embeddings == (tied and targets == ["queries"])
    merged.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits(again), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:Model with `tie_word_embeddings")
@pytest.mark.parametrize("architecture", ["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_circuits_are_those_of_the_adapted_model(architecture: str) -> None:
    lm = adapted(architecture, ["lm_head", "embedding"])
    expected = logits(lm)
    with torch.no_grad():
        torch.testing.assert_close(run(build_bridge(lm), IDS), expected, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(logits(lm), expected, atol=0, rtol=0)  # the live model stays as it is


def test_adapters_on_a_shared_layer_are_refused() -> None:
    lm = tiny_lm(layers=2)
    first, second = (block.self_attn.q_proj for block in lm.model.layers)
    second.weight = first.weight
    with pytest.raises(UserError, match=r"adapters on 'model\.layers\.0\.self_attn\.q_proj' cannot be merged"):
        merge_adapters(add_lora(lm, Lora(target_modules=["q_proj"])))


def test_adapters_of_other_kinds_are_merged_or_refused() -> None:
    scaled = get_peft_model(tiny_lm(scale=4.0), IA3Config(task_type="CAUSAL_LM")).eval()
    with torch.no_grad():
        for name, parameter in scaled.named_parameters():
            if "ia3_" in name:
                parameter.mul_(1.5)
    expected = logits(scaled)
    torch.testing.assert_close(logits(merge_adapters(scaled)), expected, atol=1e-4, rtol=1e-4)
    prompts = get_peft_model(tiny_lm(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(UserError, match="cannot be merged"):
        merge_adapters(prompts)
