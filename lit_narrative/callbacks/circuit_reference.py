"""What has changed since another checkpoint: its analyses beside those of the model."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase

from lit_narrative.circuits.bridge import build_bridge, shape
from lit_narrative.circuits.edge_scores import EdgeScores
from lit_narrative.circuits.importance import Ablation, compare, overlap
from lit_narrative.errors import UserError
from lit_narrative.lm.checkpoint import read_language_model

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

TOP = 0.1
"""Share of a model's edges that count as its circuit when two are compared."""


def reference_bridge(path: str, tokenizer: PreTrainedTokenizerBase, bridge: "TransformerBridge") -> "TransformerBridge":
    """Open up the model of a checkpoint, where ``bridge`` is.

    Raises:
        UserError: it cannot be read, or is of another shape or vocabulary.
    """
    lm, own = read_language_model(path)
    if own.get_vocab() != tokenizer.get_vocab():
        raise UserError(f"callback CircuitAnalysis: the tokenizer of reference '{path}' is not that of the model")
    other = build_bridge(lm.to(bridge.cfg.device))  # type: ignore[arg-type]
    if shape(other) != shape(bridge):
        raise UserError(
            f"callback CircuitAnalysis: reference '{path}' has {tuple(shape(other))} layers, heads, key-value heads, "
            f"width and vocabulary, the model {tuple(shape(bridge))}; parts can be compared only one by one"
        )
    return other


def compare_with_reference(folder: Path, figures: Mapping[str, float], before: Mapping[str, float]) -> dict[str, Any]:
    """What differs between a folder of analyses and its ``reference``.

    Args:
        folder: of the model; the reference's is in it.
        figures: of the model.
        before: of the reference.

    Returns:
        ``figures``: of both, with the change; ``important_parts`` and ``circuits``: of each split, whether both models
        rely on the same parts and edges (`importance.Overlap`; the reference comes second).
    """
    rows = {
        name: {"reference": before[name], "model": value, "change": value - before[name]}
        for name, value in figures.items()
        if name in before
    }
    return {"figures": rows, "important_parts": _parts(folder), "circuits": _circuits(folder)}


def _parts(folder: Path) -> dict[str, Any]:
    if not all((own / "ablation.csv").exists() for own in (folder, folder / "reference")):
        return {}
    now, then = Ablation.load(folder), Ablation.load(folder / "reference")
    return {base.split: asdict(compare(now, base.split, then, base.split)) for base in now.bases}


def _circuits(folder: Path) -> dict[str, Any]:
    found = {}
    for path in sorted(folder.glob("*/circuit.json")):
        split, other = path.parent.name, folder / "reference" / path.parent.name
        if (other / "circuit.json").exists():
            now, then = EdgeScores.load(path.parent).magnitudes(), EdgeScores.load(other).magnitudes()
            count = max(1, round(TOP * len(now)))
            found[split] = asdict(overlap(now, then, count, (split, f"{split} (reference)")))
    return found
