"""A sharded model scores, learns and writes as the whole one does."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from lit_narrative.lm.load import Lora, add_lora, base_lm
from lit_narrative.lm.logprobs import completion_batch, score_completions
from lit_narrative.lm.sampler import LoopSampler, Request, SamplingParams
from lit_narrative.lm.shard import gathered, shard
from lit_narrative.lm.vectors.inject import InjectionSettings, add_injector
from lit_narrative.views import Prompt
from tests.helpers import ARCHITECTURES, requests, tiny_lm, tokenizer
from tests.runs.processes import two_processes

pytestmark = pytest.mark.ddp
BATCH = completion_batch([[1, 2, 3], [4, 5], [1, 2, 3]], [[6, 7, 8], [9], [7, 7]])


def whole_and_sharded(architecture: str, lora: bool) -> tuple[Any, Any]:
    """The same model twice, with adapters that do something."""
    pair = []
    for _ in range(2):
        lm: Any = tiny_lm(architecture, scale=3)
        torch.manual_seed(0)
        if lora:
            lm = add_lora(lm, Lora(r=3))
            for name, parameter in lm.named_parameters():
                if "lora_B" in name:
                    nn.init.normal_(parameter, std=0.1)
        pair.append(lm)
    return pair[0], pair[1]


def on_mesh(check: Callable[..., None], *args: Any) -> None:
    torch.distributed.init_process_group("gloo")
    check(init_device_mesh("cpu", (2,)), *args)


def all_shares(module: nn.Module) -> bool:
    return all(isinstance(parameter, DTensor) for parameter in module.parameters())


def gradients(lm: nn.Module, head: nn.Module, workspace: int) -> dict[str, torch.Tensor]:
    """After two backward passes over a loss of all that scoring gives."""
    for _ in range(2):
        scores = score_completions(lm, BATCH, temperature=0.7, entropy=True, value_head=head, workspace=workspace)
        assert scores.values is not None and scores.entropy is not None
        (scores.logprobs.mean() + scores.values.square().mean() + scores.entropy.mean()).backward()
    named = [*lm.named_parameters(), *head.named_parameters(prefix="head")]
    return {name: parameter.grad for name, parameter in named if parameter.grad is not None}


def same_gradients(mesh: Any) -> None:
    for architecture, lora, workspace, checkpointing in (
        ("gpt2", False, 2**24, True),
        ("gpt2", True, 600, False),
        ("llama", False, 600, True),
        ("llama", True, 600, True),
        ("llama", True, 2**24, False),
    ):
        whole, sharded = whole_and_sharded(architecture, lora)
        heads = [nn.Linear(16, 1), nn.Linear(16, 1)]
        heads[1].load_state_dict(heads[0].state_dict())
        for module in (sharded, heads[1]):
            shard(module, mesh)
            shard(module, mesh)  # once is enough, twice does no harm
        if checkpointing:
            for lm in (whole, sharded):
                lm.gradient_checkpointing_enable()
                lm.train()
        expected, found = gradients(whole, heads[0], workspace), gradients(sharded, heads[1], workspace)
        assert expected.keys() == found.keys()
        for name, gradient in found.items():
            assert isinstance(gradient, DTensor), name
            torch.testing.assert_close(gradient.full_tensor(), expected[name], atol=1e-6, rtol=1e-5)
        assert all_shares(sharded) and all_shares(heads[1])


def test_sharded_gradients_are_those_of_the_whole_model() -> None:
    two_processes(on_mesh, same_gradients)


def same_texts(mesh: Any) -> None:
    rank = torch.distributed.get_rank()
    for architecture, lora in product(ARCHITECTURES, (False, True)):
        whole, sharded = whole_and_sharded(architecture, lora)
        shard(sharded, mesh)
        expected = LoopSampler().sample(whole, tokenizer(), requests(), SamplingParams(24))
        with gathered(sharded):
            ids = torch.tensor([[1, 2, 3]])
            parts = [base_lm(lm).get_decoder()(input_ids=ids).last_hidden_state for lm in (whole, sharded)]
            assert torch.equal(*parts)  # the first call of all may go past the root
            # The second process writes more, and longer: no process waits for another.
            for _ in range(1 + rank):
                with gathered(sharded):
                    found = LoopSampler().sample(sharded, tokenizer(), requests(), SamplingParams(24))
            with torch.no_grad():
                for _ in range(rank):
                    score_completions(sharded, BATCH)
        assert [r.completion_ids.tolist() for r in found] == [r.completion_ids.tolist() for r in expected]
        assert max(float((a.logprobs - b.logprobs).abs().max()) for a, b in zip(found, expected, strict=True)) < 1e-5
        assert all_shares(sharded)


@pytest.mark.slow
def test_processes_write_with_a_gathered_model_without_waiting_for_each_other() -> None:
    two_processes(on_mesh, same_texts)


def same_injection(mesh: Any) -> None:
    vectors = torch.tensor([[1.0, -2.0, 0.5], [0.3, 1.0, 4.0]])
    batch = completion_batch([[1, 2, 3], [4, 5], [1, 2, 3]], [[6, 7], [9], [7, 7]], [vectors[0], None, vectors[1]])
    for architecture, lora, layers in (("gpt2", False, [0, 2]), ("gpt2", True, [0]), ("llama", True, [0, 2])):
        pair = whole_and_sharded(architecture, lora)
        for lm in pair:
            settings = InjectionSettings("project", layers, marker="~", width=3)
            add_injector(lm, tokenizer(), settings).marker_id = 2
        shard(pair[1], mesh)
        base_lm(pair[1]).gradient_checkpointing_enable()
        pair[1].train()
        asked = [Request(Prompt("", injection=vector.numpy()), [1, 2, 3], [0, 1]) for vector in vectors]
        written, scores = [], []
        for lm in pair:
            scores.append(score_completions(lm, batch).logprobs)
            scores[-1].mean().backward()
            lm.eval()
            with gathered(lm):
                written.append(LoopSampler().sample(lm, tokenizer(), asked, SamplingParams(8)))
        torch.testing.assert_close(*scores, atol=1e-5, rtol=1e-5)
        expected, found = (base_lm(lm).injector.projection.weight.grad for lm in pair)
        torch.testing.assert_close(found.full_tensor(), expected, atol=1e-6, rtol=1e-5)
        texts = [[row.completion_ids.tolist() for row in rows] for rows in written]
        assert texts[0] == texts[1]
        assert texts[0][:2] != texts[0][2:]  # equal ids and seeds, other vectors
        assert all_shares(pair[1])


def test_a_sharded_model_takes_vectors_as_the_whole_one_does() -> None:
    two_processes(on_mesh, same_injection)


def lower_precision(mesh: Any) -> None:
    whole, sharded = whole_and_sharded("llama", lora=False)
    shard(sharded, mesh, torch.bfloat16)
    with gathered(sharded):
        assert {parameter.dtype for parameter in sharded.parameters()} == {torch.bfloat16}
    scores = score_completions(sharded, BATCH).logprobs
    torch.testing.assert_close(scores, score_completions(whole, BATCH).logprobs, atol=0.1, rtol=0.1)
    scores.mean().backward()
    assert {parameter.grad.dtype for parameter in sharded.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in sharded.parameters()} == {torch.float32}


def test_weights_travel_in_bfloat16_and_are_kept_in_float32() -> None:
    two_processes(on_mesh, lower_precision)
