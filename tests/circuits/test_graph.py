"""The graph of a model: its nodes and edges, its picture, and runs in which edges are replaced."""

import numpy as np
import pytest
import torch

from lit_narrative.circuits.analyses.patching import PatchingSettings, patch
from lit_narrative.circuits.bridge import build_bridge, separate_inputs
from lit_narrative.circuits.graph import Graph, edge_mask, run_edges, to_dot, written
from lit_narrative.circuits.hooks import batched_interventions, capture
from lit_narrative.circuits.inputs import ask
from tests.circuits.analyses.test_patching import random_contrasts
from tests.circuits.test_bridge import make


def test_the_graph_counts_as_it_should() -> None:
    graph = Graph(2, 4, 4)
    assert (len(graph.sources), len(graph.destinations), len(graph.edges)) == (11, 27, 110)
    assert graph.sources[:6] == ("input", "a0.h0", "a0.h1", "a0.h2", "a0.h3", "m0")
    grouped = Graph(1, 4, 2)
    assert [name for name in grouped.destinations if "<k>" in name] == ["a0.h0<k>", "a0.h1<k>"]
    names = {grouped.name(edge) for edge in grouped.edges}
    assert {"input->a0.h3<q>", "a0.h3->m0", "m0->logits", "input->logits"} <= names
    assert not {"a0.h3->a0.h1<q>", "m0->m0", "m0->a0.h0<v>"} & names


def test_the_picture_names_slots_and_signs() -> None:
    text = to_dot({("input", "m0"): -1.0, ("m0", "a1.h1<q>"): 0.5})
    assert text.startswith("digraph circuit {")
    assert '"input" -> "m0" [label="-1", color=firebrick, penwidth=4.50];' in text
    assert '"m0" -> "a1.h1" [label="q 0.5", color=steelblue, penwidth=2.50];' in text
    assert to_dot({}).endswith("}\n")


KINDS = ("gpt2", "llama", "llama_grouped", "qwen3")


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_replacing_all_edges_gives_the_other_run_and_none_gives_the_same(kind: str) -> None:
    bridge, pairs = build_bridge(make(kind)), random_contrasts(padded=1)
    graph = Graph.of(bridge)
    with separate_inputs(bridge):
        clean_scores, _ = written(bridge, pairs.inputs("clean"), graph)
        corrupt_scores, corrupt = written(bridge, pairs.inputs("corrupt"), graph)
    into_logits = graph.exists & (np.array(graph.destinations) == "logits")
    masks = [edge_mask(graph, ()), graph.exists, into_logits]
    result = run_edges(bridge, pairs.inputs("clean"), corrupt, masks, graph, 6).logit_diff
    assert torch.allclose(result[0], clean_scores.logit_diff, atol=1e-4)
    assert torch.allclose(result[1], corrupt_scores.logit_diff, atol=1e-4)
    assert torch.allclose(result[2], corrupt_scores.logit_diff, atol=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "llama_grouped"])
def test_all_that_an_mlp_reads_or_a_head_writes_is_the_same_as_patching_it(kind: str) -> None:
    bridge, pairs = build_bridge(make(kind)), random_contrasts()
    graph = Graph.of(bridge)
    with separate_inputs(bridge):
        _, clean = written(bridge, pairs.inputs("clean"), graph)
    read_by = graph.exists & (np.array(graph.destinations) == "m1")
    written_by = graph.exists & (np.array(graph.sources) == "a0.h1")[:, None]
    result = run_edges(bridge, pairs.inputs("corrupt"), clean, [read_by, written_by], graph, 100).logit_diff
    head = patch(bridge, pairs, PatchingSettings(("z",), directions=("denoise",)))
    index = next(row for row, cell in enumerate(head.patches) if (cell.layer, cell.head) == (0, 1))
    assert result[1].numpy() == pytest.approx(head.logit_diffs[index], abs=1e-4)

    _, kept = capture(bridge, pairs.inputs("clean"), ["blocks.1.hook_mlp_out"])
    edit = ("blocks.1.hook_mlp_out", lambda rows: rows.copy_(kept["blocks.1.hook_mlp_out"]))
    whole = batched_interventions(bridge, pairs.inputs("corrupt"), [edit], 100).logit_diff[0]
    assert torch.allclose(result[0], whole, atol=1e-4)


def test_a_destination_reads_no_source_that_writes_after_it() -> None:
    bridge, pairs = build_bridge(make("llama_grouped")), random_contrasts()
    graph = Graph.of(bridge)
    with separate_inputs(bridge):
        _, other = written(bridge, pairs.inputs("corrupt"), graph)
    first_layer = graph.exists & np.array([name.startswith(("a0", "m0")) for name in graph.destinations])
    expected = run_edges(bridge, pairs.inputs("clean"), other, [first_layer], graph, 100).logit_diff
    other[[index for index, name in enumerate(graph.sources) if name[1] == "1"]] = torch.nan
    assert torch.equal(run_edges(bridge, pairs.inputs("clean"), other, [first_layer], graph, 100).logit_diff, expected)


def test_edges_of_some_layers_are_those_of_the_whole_graph() -> None:
    whole, some = Graph(3, 2, 2), Graph(3, 2, 2, (0, 2))
    names = {whole.name(edge) for edge in whole.edges}
    assert {some.name(edge) for edge in some.edges} == {name for name in names if "1" not in name.replace("h1", "")}
    assert Graph(**some.sizes()).sources == some.sources


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen3"])
def test_layers_below_an_edit_are_read_once(kind: str) -> None:
    """Edits in any order score as each does in a whole run by itself, though the layers below them are left out."""
    bridge, inputs = build_bridge(make(kind)), random_contrasts(padded=1).inputs("clean")
    read: list[int] = []
    for layer, block in enumerate(bridge.blocks):
        block.original_component.register_forward_pre_hook(lambda *call, layer=layer: read.append(layer))
    hooks = ["blocks.1.hook_mlp_out", "blocks.0.attn.hook_z", "blocks.1.hook_resid_pre", "blocks.1.attn.hook_z"]
    edits = [(hook, lambda rows, at=at: rows.mul_(2 + at)) for at, hook in enumerate(hooks)]
    together = batched_interventions(bridge, inputs, edits, batch_size=1)
    assert read.count(1) == len(edits) + 2  # the stream before it, and whether a run may begin there
    assert read.count(0) == 2  # the edit in it, and the stream behind it
    for index, (hook, change) in enumerate(edits):
        alone = ask(bridge, inputs, [(hook, lambda activation, hook, change=change: change(activation.clone()))])
        assert torch.allclose(together.logprob[index], alone.logprob, atol=1e-5), hook
