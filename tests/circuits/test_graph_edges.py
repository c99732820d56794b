"""Runs with edges replaced: none, all, and those of one part are what other runs give."""

import numpy as np
import pytest
import torch

from lit_narrative.circuits.analyses.patching import PatchingSettings, patch
from lit_narrative.circuits.bridge import build_bridge, separate_inputs, shape
from lit_narrative.circuits.graph import Graph, edge_mask, run_edges, written
from lit_narrative.circuits.hooks import batched_interventions, capture
from tests.circuits.analyses.test_patching import random_contrasts
from tests.circuits.test_bridge import make

KINDS = ("gpt2", "llama", "llama_grouped", "qwen3")


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_replacing_all_edges_gives_the_other_run_and_none_gives_the_same(kind: str) -> None:
    bridge, pairs = build_bridge(make(kind)), random_contrasts(padded=1)
    graph = Graph.of(shape(bridge))
    with separate_inputs(bridge):
        clean_scores, _ = written(bridge, pairs.inputs("clean"), graph)
        corrupt_scores, corrupt = written(bridge, pairs.inputs("corrupt"), graph)
    into_logits = graph.exists & (np.array(graph.destinations) == "logits")
    masks = [edge_mask(graph, ()), graph.exists, into_logits]
    found = run_edges(bridge, pairs.inputs("clean"), corrupt, masks, graph, 6).logit_diff
    assert torch.allclose(found[0], clean_scores.logit_diff, atol=1e-4)
    assert torch.allclose(found[1], corrupt_scores.logit_diff, atol=1e-4)
    assert torch.allclose(found[2], corrupt_scores.logit_diff, atol=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "llama_grouped"])
def test_all_that_an_mlp_reads_or_a_head_writes_is_the_same_as_patching_it(kind: str) -> None:
    bridge, pairs = build_bridge(make(kind)), random_contrasts()
    graph = Graph.of(shape(bridge))
    with separate_inputs(bridge):
        _, clean = written(bridge, pairs.inputs("clean"), graph)
    read_by = graph.exists & (np.array(graph.destinations) == "m1")
    written_by = graph.exists & (np.array(graph.sources) == "a0.h1")[:, None]
    found = run_edges(bridge, pairs.inputs("corrupt"), clean, [read_by, written_by], graph, 100).logit_diff
    head = patch(bridge, pairs, PatchingSettings(("z",), directions=("denoise",)))
    own = next(row for row, cell in enumerate(head.patches) if (cell.layer, cell.head) == (0, 1))
    assert found[1].numpy() == pytest.approx(head.logit_diffs[own], abs=1e-4)

    _, kept = capture(bridge, pairs.inputs("clean"), ["blocks.1.hook_mlp_out"])
    edit = ("blocks.1.hook_mlp_out", lambda rows: rows.copy_(kept["blocks.1.hook_mlp_out"]))
    whole = batched_interventions(bridge, pairs.inputs("corrupt"), [edit], 100).logit_diff[0]
    assert torch.allclose(found[0], whole, atol=1e-4)
