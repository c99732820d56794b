"""The graph of a model: what there is, and its picture."""

from lit_narrative.circuits.graph import Graph, to_dot


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
