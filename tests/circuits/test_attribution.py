"""Edges: exact runs are what patching gives, gradients come near them, and the planted edges are found."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lit_narrative.circuits.attribution import AttributionSettings, attribute_edges, attribute_nodes
from lit_narrative.circuits.bridge import build_bridge, separate_inputs, shape
from lit_narrative.circuits.contrasts import Contrasts
from lit_narrative.circuits.edge_scores import EdgeScores, NodeScores
from lit_narrative.circuits.edges import edge_mask, run_edges, written
from lit_narrative.circuits.graph import Graph, to_dot
from lit_narrative.circuits.patches import PatchingSettings
from lit_narrative.circuits.patching import patch
from lit_narrative.errors import UserError
from tests.circuits.planted import planted_contrasts, planted_lm
from tests.circuits.test_bridge import make
from tests.circuits.test_patching import random_contrasts

KINDS = ("gpt2", "llama", "llama_grouped", "qwen3")
PLANTED = [("a1.h1", "logits"), ("input", "a1.h1<v>")]


def close_pairs(rows: int = 4) -> Contrasts:
    """Pairs that differ in one token."""
    made = random_contrasts(rows)
    corrupt = made.clean.clone()
    corrupt[:, 2] = made.corrupt[:, 2]
    return Contrasts(made.clean, corrupt, made.mask, made.answer, made.distractor, made.places)


def test_the_graph_counts_as_it_should() -> None:
    graph = Graph(2, 4, 4)
    assert (len(graph.sources), len(graph.destinations), len(graph.edges)) == (11, 27, 110)
    assert graph.sources[:6] == ("input", "a0.h0", "a0.h1", "a0.h2", "a0.h3", "m0")
    grouped = Graph(1, 4, 2)
    assert [name for name in grouped.destinations if "<k>" in name] == ["a0.h0<k>", "a0.h1<k>"]
    names = {grouped.name(edge) for edge in grouped.edges}
    assert {"input->a0.h3<q>", "a0.h3->m0", "m0->logits", "input->logits"} <= names
    assert not {"a0.h3->a0.h1<q>", "m0->m0", "m0->a0.h0<v>"} & names


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_replacing_all_edges_gives_the_other_run_and_none_gives_the_same(kind: str) -> None:
    bridge, pairs = build_bridge(make(kind)), random_contrasts(padded=1)
    graph = Graph.of(shape(bridge))
    with separate_inputs(bridge):
        clean_scores, _ = written(bridge, pairs.questions("clean"), graph)
        corrupt_scores, corrupt = written(bridge, pairs.questions("corrupt"), graph)
    into_logits = graph.exists & (np.array(graph.destinations) == "logits")
    masks = [edge_mask(graph, ()), graph.exists, into_logits]
    found = run_edges(bridge, pairs.questions("clean"), corrupt, masks, graph, 6).logit_diff
    assert torch.allclose(found[0], clean_scores.logit_diff, atol=1e-4)
    assert torch.allclose(found[1], corrupt_scores.logit_diff, atol=1e-4)
    assert torch.allclose(found[2], corrupt_scores.logit_diff, atol=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "llama_grouped"])
def test_all_that_an_mlp_reads_or_a_head_writes_is_the_same_as_patching_it(kind: str) -> None:
    bridge, pairs = build_bridge(make(kind)), random_contrasts()
    graph = Graph.of(shape(bridge))
    with separate_inputs(bridge):
        _, clean = written(bridge, pairs.questions("clean"), graph)
    read_by = graph.exists & (np.array(graph.destinations) == "m1")
    written_by = graph.exists & (np.array(graph.sources) == "a0.h1")[:, None]
    found = run_edges(bridge, pairs.questions("corrupt"), clean, [read_by, written_by], graph, 100).logit_diff
    head = patch(bridge, pairs, PatchingSettings(("z",), directions=("denoise",)))
    own = next(row for row, cell in enumerate(head.patches) if (cell.layer, cell.head) == (0, 1))
    assert found[1].numpy() == pytest.approx(head.logit_diffs[own], abs=1e-4)

    from lit_narrative.circuits.sweep import capture, sweep

    _, kept = capture(bridge, pairs.questions("clean"), ["blocks.1.hook_mlp_out"])
    edit = ("blocks.1.hook_mlp_out", lambda rows: rows.copy_(kept["blocks.1.hook_mlp_out"]))
    whole = sweep(bridge, pairs.questions("corrupt"), [edit], 100).logit_diff[0]
    assert torch.allclose(found[0], whole, atol=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "llama_grouped"])
def test_integrated_gradients_come_near_the_exact_scores(kind: str) -> None:
    bridge, pairs = build_bridge(make(kind)), close_pairs()
    exact = attribute_edges(bridge, pairs, AttributionSettings("exact")).values()
    fine = attribute_edges(bridge, pairs, AttributionSettings("eap_ig")).values()
    assert np.corrcoef(exact, fine)[0, 1] >= 0.9
    batched = attribute_edges(bridge, pairs, AttributionSettings("eap_ig", batch_size=3)).values()
    assert batched == pytest.approx(fine, abs=1e-4)


@pytest.mark.parametrize("method", ["eap", "eap_ig", "exact"])
def test_the_planted_edges_are_found(method: str) -> None:
    found = attribute_edges(build_bridge(planted_lm()), planted_contrasts(), AttributionSettings(method))  # type: ignore[arg-type]
    top = found.named(3)
    assert set(list(top)[:2]) == set(PLANTED)
    third = list(top.values())[2]
    assert min(top[edge] for edge in PLANTED) > 8 * abs(third)


def test_planted_gradients_equal_the_exact_scores() -> None:
    bridge, pairs = build_bridge(planted_lm()), planted_contrasts()
    exact = attribute_edges(bridge, pairs, AttributionSettings("exact")).values()
    fine = attribute_edges(bridge, pairs, AttributionSettings("eap_ig")).values()
    assert np.corrcoef(exact, fine)[0, 1] >= 0.99


def test_parts_and_places_of_the_planted_mechanism() -> None:
    pairs = planted_contrasts()
    found = attribute_nodes(build_bridge(planted_lm()), pairs)
    (first, score), (second, _), (_, rest) = found.ranked()[:3]
    assert {first, second} == {"input", "a1.h1"}
    assert abs(rest) < 0.1 * score
    head = found.scores[found.sources.index("a1.h1")]
    assert head.argmax() == pairs.clean.shape[1] - 1
    whole = patch(build_bridge(planted_lm()), pairs, PatchingSettings(("z",), directions=("denoise",)))
    effect = whole.top(1)[0].logit_diff - whole.corrupt.mean()
    assert head.sum() == pytest.approx(effect, rel=0.15)


def test_node_gradients_are_derivatives() -> None:
    """For a small step from the corrupt run, the score is the change itself."""
    lm = make("llama")
    bridge, pairs = build_bridge(lm), random_contrasts(2)
    made = attribute_nodes(bridge, pairs, AttributionSettings("eap"))
    assert made.scores.shape == (7, 5)
    graph = Graph.of(shape(bridge))
    with separate_inputs(bridge):
        base, corrupt = written(bridge, pairs.questions("corrupt"), graph)
        _, clean = written(bridge, pairs.questions("clean"), graph)
    mask = graph.exists & (np.array(graph.sources) == "m0")[:, None]
    small = corrupt + 1e-2 * (clean - corrupt)
    found = run_edges(bridge, pairs.questions("corrupt"), small, [mask], graph, 9).logit_diff
    slope = (found[0] - base.logit_diff).mean() / 1e-2
    assert made.scores[graph.sources.index("m0")].sum() == pytest.approx(float(slope), rel=0.1, abs=0.01)


def test_saved_and_loaded(tmp_path: Path) -> None:
    bridge, pairs = build_bridge(planted_lm()), planted_contrasts()
    found = attribute_edges(bridge, pairs, AttributionSettings("eap"))
    read = EdgeScores.load(found.save(tmp_path))
    assert np.array_equal(read.scores, found.scores)
    assert read.ranked() == found.ranked()
    nodes = attribute_nodes(bridge, pairs)
    again = NodeScores.load(nodes.save(tmp_path))
    assert np.array_equal(again.scores, nodes.scores)
    assert again.sources == nodes.sources
    dot = (tmp_path / "circuit.dot").read_text()
    assert dot.startswith("digraph circuit {")
    assert '"input" -> "a1.h1" [label="v ' in dot
    assert to_dot({("input", "m0"): -1.0}).count("firebrick") == 1


def test_bad_settings_are_named() -> None:
    with pytest.raises(UserError, match=r"attribution\.method: no 'eap_gi'; did you mean 'eap_ig'"):
        AttributionSettings("eap_gi")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"attribution\.steps is 0"):
        AttributionSettings(steps=0)
    bridge, pairs = build_bridge(planted_lm()), planted_contrasts()
    with pytest.raises(UserError, match=r"46 edges, more than attribution\.max_edges=10"):
        attribute_edges(bridge, pairs, AttributionSettings("exact", max_edges=10))
    with pytest.raises(UserError, match="for exact figures patch them"):
        attribute_nodes(bridge, pairs, AttributionSettings("exact"))
