"""Circuits in the files of EAP-IG and of circuit-tracer, read by what their documentation says."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_narrative.circuits.exchange import read_importances
from lit_narrative.circuits.graph import Graph
from lit_narrative.circuits.overlap import overlap
from lit_narrative.circuits.records.edges import EdgeScores, NodeScores, Pruned
from lit_narrative.cli.main import main
from lit_narrative.errors import UserError
from lit_narrative.files import read_json, write_json

GRAPHS = {"plain": Graph(2, 2, 2), "grouped": Graph(2, 4, 2), "some layers": Graph(3, 2, 1, chosen=[0, 2])}


def split(tmp_path: Path, graph: Graph) -> Path:
    """The folder of a split, as CircuitAnalysis writes it, with made-up scores."""
    folder = tmp_path / "circuits" / "id_test"
    rng = np.random.default_rng(0)
    scores = rng.normal(size=graph.exists.shape).astype(np.float32) * graph.exists
    EdgeScores(graph, scores, "eap_ig").save(folder)
    NodeScores(graph.sources, rng.normal(size=(len(graph.sources), 3)).astype(np.float32), "eap_ig").save(folder)
    Pruned(graph, tuple(graph.edges[:5]), 0.9, 0.01, 9).save(folder)
    write_json(folder.parent / "manifest.json", {"model": {"width": 16}})
    return folder


def eap_ig_edges(layers: int, heads: int) -> set[str]:
    """The edges of EAP-IG's `Graph.from_model`, as its documentation lists them."""
    stream, edges = ["input"], set()
    for layer in range(layers):
        attention = [f"a{layer}.h{head}" for head in range(heads)]
        edges |= {f"{source}->{head}<{letter}>" for source in stream for head in attention for letter in "qkv"}
        stream += attention
        edges |= {f"{source}->m{layer}" for source in stream}
        stream.append(f"m{layer}")
    return edges | {f"{source}->logits" for source in stream}


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_importances_are_a_graph_of_eap_ig_and_come_back(graph: Graph, tmp_path: Path) -> None:
    folder, file = split(tmp_path, graph), tmp_path / "importances.json"
    main(["export", str(folder), str(file), "--what", "importances"])
    stored = json.loads(file.read_text())
    assert (
        stored["cfg"].items()
        >= {
            "n_layers": graph.layers,
            "n_heads": graph.heads,
            "parallel_attn_mlp": False,
            "d_model": 16,
        }.items()
    )
    known = eap_ig_edges(graph.layers, graph.heads)
    assert stored["edges"].keys() <= known
    if graph.chosen is None:
        assert stored["edges"].keys() == known
    assert stored["nodes"].keys() == {*graph.sources, "logits"}
    assert all(
        isinstance(edge["score"], float) and isinstance(edge["in_graph"], bool) for edge in stored["edges"].values()
    )
    scores = EdgeScores.load(folder)
    # A shared key or value counts once for each of its heads.
    total = sum(edge["score"] for edge in stored["edges"].values())
    assert total == pytest.approx(float(scores.scores.sum()), abs=1e-4)
    kept = {name for name, edge in stored["edges"].items() if edge["in_graph"]}
    assert len(kept) >= 5
    assert stored["nodes"]["input"]["score"] == pytest.approx(dict(NodeScores.load(folder).ranked())["input"])
    back = read_importances(file)
    assert (
        back.magnitudes().items()
        >= {name: pytest.approx(value, abs=1e-6) for name, value in scores.magnitudes().items()}.items()
    )
    own = overlap(back.magnitudes(), {**dict.fromkeys(back.magnitudes(), 0.0), **scores.magnitudes()}, 4)
    assert own.jaccard == 1
    assert EdgeScores.load(back.save(tmp_path / "read")).magnitudes() == back.magnitudes()


def test_attribution_graph_is_what_circuit_tracer_shows(tmp_path: Path) -> None:
    folder, file = split(tmp_path, GRAPHS["plain"]), tmp_path / "cards.json"
    main(["export", str(folder), str(file), "--what", "graph", "--edges", "12"])
    stored = json.loads(file.read_text())
    metadata, nodes = stored["metadata"], {node["node_id"]: node for node in stored["nodes"]}
    assert stored.keys() == {"metadata", "qParams", "nodes", "links"}
    assert metadata["slug"] == "cards" and metadata["schema_version"] == 1
    assert stored["qParams"].keys() == {"pinnedIds", "supernodes", "linkType", "clickedId", "sg_pos"}
    # Its page drops what stands in more than two thirds of the columns, and puts every node into one of them.
    assert len(metadata["prompt_tokens"]) == 2
    assert len(nodes) == len(stored["nodes"])
    kinds = {"ctx_idx": int, "feature": int, "layer": str, "feature_type": str, "jsNodeId": str, "clerp": str}
    for node in nodes.values():
        assert all(isinstance(node[key], kind) for key, kind in kinds.items())
        assert node["ctx_idx"] < len(metadata["prompt_tokens"])
    assert [node["layer"] for node in nodes.values() if node["is_target_logit"]] == ["3"]
    assert {link[end] for link in stored["links"] for end in ("source", "target")} <= nodes.keys()
    strongest = EdgeScores.load(folder).named(12)
    assert sum(link["weight"] for link in stored["links"]) == pytest.approx(sum(strongest.values()), abs=1e-5)
    pairs = [(link["source"], link["target"]) for link in stored["links"]]
    assert len(pairs) == len(set(pairs)) <= 12


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(stored: dict[str, Any]) -> None:
        *way, last = path.split("/")
        for key in way:
            stored = stored[key]
        stored[last] = value

    return apply


@pytest.mark.parametrize(
    ("edit", "part"),
    [
        (change("cfg/n_layers", 10**9), "more than this package can hold"),
        (change("cfg/n_heads", 1.5), "'n_heads' must be a whole number"),
        (change("cfg/n_key_value_heads", 3), "must divide n_heads=4"),
        (change("cfg/parallel_attn_mlp", True), "parallel_attn_mlp"),
        (change("edges/input->m9", {"score": 1.0}), "'input->m9' must be an edge"),
        (change("edges/input->m0", {"score": float("nan")}), "'input->m0' must be an edge"),
        (change("edges/input->m0", "high"), "'input->m0' must be an edge"),
        (change("edges", []), "holds no edge"),
        (change("edges", "all"), "must be an object"),
    ],
)
def test_a_file_that_is_no_such_graph_is_one_clear_error(
    edit: Callable[[dict[str, Any]], None], part: str, tmp_path: Path
) -> None:
    file = tmp_path / "importances.json"
    main(["export", str(split(tmp_path, GRAPHS["grouped"])), str(file), "--what", "importances"])
    stored: Any = read_json(file)
    edit(stored)
    file.write_text(json.dumps(stored))
    with pytest.raises(UserError) as caught:
        read_importances(file)
    assert "importances.json" in str(caught.value) and part in str(caught.value)


def test_a_folder_without_a_circuit_is_one_clear_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for what in ("importances", "graph"):
        with pytest.raises(SystemExit):
            main(["export", str(tmp_path), str(tmp_path / "new.json"), "--what", what])
        assert "holds no circuit.json" in capsys.readouterr().err
    folder = split(tmp_path, GRAPHS["plain"])
    (folder.parent / "manifest.json").unlink()
    with pytest.raises(SystemExit):
        main(["export", str(folder), str(tmp_path / "new.json"), "--what", "importances"])
    assert "manifest.json' is missing" in capsys.readouterr().err
