"""Circuits in the files of other tools: EAP-IG's graph, which the MIB benchmark takes, and circuit-tracer's page.

- EAP-IG (Hanna et al. 2024, https://github.com/hannamw/EAP-IG), ``Graph.to_json``: ``cfg`` (sizes), ``nodes`` (name ->
  ``in_graph``, ``score``), ``edges`` (name -> ``score``, ``in_graph``). MIB (Mueller et al. 2025,
  https://arxiv.org/abs/2504.13151) ranks such ``importances.json`` files. Parts and edges have the same names there.
- circuit-tracer (https://github.com/safety-research/circuit-tracer), ``frontend/graph_models.py``: ``metadata``,
  ``qParams``, ``nodes``, ``links``. Its own nodes are features of transcoders at one position of one prompt; ours are
  heads and MLPs, with scores summed over positions and averaged over pairs of prompts.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from lit_narrative.circuits.graph import Graph, node_of
from lit_narrative.circuits.records.edges import EdgeScores, NodeScores, Pruned
from lit_narrative.errors import UserError, check_least
from lit_narrative.files import write_json
from lit_narrative.report.records import Record, finite, read_record

KV_HEADS = "n_key_value_heads"
"""A key of ours in ``cfg``, which EAP-IG reads past: there every head has keys and values of its own."""
LARGEST = 2**27
"""Pairs of a source and a destination that a file may ask for: more would fill the memory before anything is read."""
COLUMNS = ("(all positions)", "(the answer)")
"""What stands in place of a prompt's tokens on circuit-tracer's page."""


def write_importances(folder: str | Path, path: str | Path) -> Path:
    """Write a circuit as EAP-IG's JSON, which ``eap.graph.Graph.from_json`` reads.

    Every edge has its score by attribution. ``in_graph`` is whether ACDC has kept it, where the folder holds ACDC's
    circuit; else it is false everywhere, as EAP-IG leaves it before a threshold. Keys and values that heads share
    have one score here; it is divided evenly between the heads.

    Args:
        folder: of a split, such as ``circuits/id_test``, with ``circuit.json``.
        path: the new file, such as ``importances.json``.

    Raises:
        UserError: the folder holds no scores of edges, or the manifest above it lacks the model's width.
    """
    scores, kept = _scores(folder), _kept(folder)
    graph, sizes = scores.graph, _manifest(folder).child("model")
    shared = graph.heads // graph.kv_heads
    edges: dict[str, dict[str, Any]] = {}
    for source, reader in graph.edges:
        score, is_kept = float(scores.scores[source, reader]), graph.name((source, reader)) in kept
        head, letter = node_of(graph.destinations[reader]), graph.destinations[reader].partition("<")[2][:1]
        names = [graph.destinations[reader]]
        if letter in ("k", "v") and shared > 1:
            layer, number = head.split(".h")
            names = [f"{layer}.h{int(number) * shared + place}<{letter}>" for place in range(shared)]
        for name in names:
            edges[f"{graph.sources[source]}->{name}"] = {"score": score / len(names), "in_graph": is_kept}
    parts = dict(_parts(folder))
    inside = {name.split("->")[0] for name in kept} | {node_of(name.split("->")[1]) for name in kept}
    nodes: dict[str, dict[str, Any]] = {name: {"in_graph": name in inside} for name in graph.sources}
    for name in nodes.keys() & parts.keys():
        nodes[name]["score"] = parts[name]
    config = {
        "n_layers": graph.layers,
        "n_heads": graph.heads,
        KV_HEADS: graph.kv_heads,
        "parallel_attn_mlp": False,
        "d_model": int(sizes.number("width")),
    }
    # The logits are in every graph of theirs, and have no score.
    return write_json(path, {"cfg": config, "nodes": {**nodes, "logits": {"in_graph": True}}, "edges": edges})


def read_importances(path: str | Path) -> EdgeScores:
    """Read a circuit that EAP-IG wrote, or :func:`write_importances`; edges that it leaves out have a score of 0.

    Its ``save`` writes the files of a split's folder, and ``circuits.overlap`` compares it with another circuit.

    Raises:
        UserError: the file is no such graph, or that of a model whose attention and MLPs read the same stream, which
            graphs of this package do not have.
    """
    stored = read_record(Path(path))
    config, edges = stored.child("cfg"), stored.child("edges")
    layers, heads = _size(config, "n_layers"), _size(config, "n_heads")
    kv_heads = _size(config, KV_HEADS) if KV_HEADS in config.value else heads
    if (layers * (heads + 1) + 1) * (layers * (3 * heads + 1) + 1) > LARGEST:
        raise UserError(f"{config.where}: {layers} layers of {heads} heads are more than this package can hold")
    if heads % kv_heads:
        raise UserError(f"{config.where}: '{KV_HEADS}' must divide n_heads={heads}, and is {kv_heads}")
    if config.value.get("parallel_attn_mlp"):
        raise UserError(
            f"{config.where}: a graph with parallel_attn_mlp cannot be read: here an MLP reads its attention"
        )
    if not edges.value:
        raise UserError(f"{edges.where} holds no edge")
    graph = Graph(layers, heads, kv_heads)
    places = {graph.name(edge): edge for edge in graph.edges}
    scores = np.zeros(graph.exists.shape, dtype=np.float32)
    for name, value in edges.value.items():
        score = finite(value.get("score")) if isinstance(value, dict) else None
        edge = places.get(_shared_name(name, heads // kv_heads))
        if score is None or edge is None:
            raise UserError(f"{edges.where}: {name!r} must be an edge of this model with a finite score, not {value!r}")
        scores[edge] += score
    return EdgeScores(graph, scores, "eap_ig")


def write_tracer_graph(folder: str | Path, path: str | Path, edges: int = 200) -> Path:
    """Write the strongest edges of a circuit as an attribution graph in circuit-tracer's JSON.

    A link is the sum of a head's query, key and value edges. ``graph-metadata.json`` lists the graphs of a folder;
    put the file's ``metadata`` into it, or upload the file to a page that reads this format.

    Args:
        folder: of a split, such as ``circuits/id_test``, with ``circuit.json``.
        path: the new file; its name without ``.json`` is the graph's ``slug``.
        edges: of the graph, at least 1.

    Raises:
        UserError: the folder holds no scores of edges.
    """
    check_least("edges", edges, 1)
    scores = _scores(folder)
    links: defaultdict[tuple[str, str], float] = defaultdict(float)
    for (source, destination), score in scores.named(edges).items():
        links[source, node_of(destination)] += score
    layers, heads = scores.graph.layers, scores.graph.heads
    named = dict.fromkeys(["input", *(name for link in links for name in link), "logits"])
    nodes = {name: _tracer_node(name, layers, heads) for name in named}
    metadata = {
        "slug": Path(path).stem,
        "scan": "lit-narrative",
        "transcoder_list": [],
        "prompt_tokens": list(COLUMNS),
        "prompt": f"{Path(folder).name}: edges between heads and MLPs by {scores.method}, means over pairs of prompts",
        "node_threshold": None,
        "schema_version": 1,
    }
    view = {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""}
    weights = [
        {"source": nodes[source]["node_id"], "target": nodes[reader]["node_id"], "weight": weight}
        for (source, reader), weight in links.items()
    ]
    return write_json(path, {"metadata": metadata, "qParams": view, "nodes": [*nodes.values()], "links": weights})


def _tracer_node(name: str, layers: int, heads: int) -> dict[str, Any]:
    """A part as a node: its layer, and its number in the layer, where the MLP comes behind the heads."""
    if name == "input":
        layer, feature, kind, label = "E", 0, "embedding", "embedding"
    elif name == "logits":
        # Without a label: the page looks for a probability in it.
        layer, feature, kind, label = str(layers + 1), 0, "logit", ""
    elif name.startswith("m"):
        layer, feature, kind, label = name[1:], heads, "mlp", f"MLP of layer {name[1:]}"
    else:
        layer, number = name[1:].split(".h")
        feature, kind, label = int(number), "attention head", f"head {number} of layer {layer}"
    column = int(name == "logits")
    return {
        "node_id": f"{layer}_{feature}_{column}",
        "feature": feature,
        "layer": layer,
        "ctx_idx": column,
        "feature_type": kind,
        "token_prob": 0.0,
        "is_target_logit": name == "logits",
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": f"{layer}_{feature}-{column}",
        "clerp": label,
        "influence": None,
        "activation": None,
    }


def _scores(folder: str | Path) -> EdgeScores:
    if not Path(folder, "circuit.json").is_file():
        raise UserError(
            f"'{folder}' holds no circuit.json; give the folder of a split that 'attribution' wrote, such as "
            "runs/cards/circuits/circuits/id_test"
        )
    return EdgeScores.load(folder)


def _kept(folder: str | Path) -> set[str]:
    """The edges of ACDC's circuit by name; empty where there is none."""
    if not Path(folder, "acdc.json").is_file():
        return set()
    circuit = Pruned.load(folder)
    return {circuit.graph.name(edge) for edge in circuit.kept}


def _parts(folder: str | Path) -> list[tuple[str, float]]:
    """The scores of parts, summed over columns; empty where there are none."""
    return NodeScores.load(folder).ranked() if Path(folder, "nodes.json").is_file() else []


def _manifest(folder: str | Path) -> Record:
    path = Path(folder, "..", "manifest.json")
    if not path.is_file():
        raise UserError(f"'{path}' is missing, which says how wide the model is; give a split within the whole folder")
    return read_record(path)


def _size(config: Record, name: str) -> int:
    value = config.number(name)
    if value != int(value) or value < 1:
        raise UserError(f"{config.where}: '{name}' must be a whole number from 1 on, not {value}")
    return int(value)


def _shared_name(name: str, shared: int) -> str:
    """The edge as a model has it whose heads share keys and values."""
    source, _, destination = name.partition("->")
    head, _, letter = destination.partition("<")
    layer, _, number = head.partition(".h")
    if shared == 1 or letter not in ("k>", "v>") or not number.isdecimal():
        return name
    return f"{source}->{layer}.h{int(number) // shared}<{letter}"
