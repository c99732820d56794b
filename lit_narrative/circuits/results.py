"""A folder of analyses, read again: the tables of one model, by analysis and by split."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from safetensors import SafetensorError

from lit_narrative.circuits.analyses.ablation import Ablation
from lit_narrative.circuits.analyses.acdc import Pruned
from lit_narrative.circuits.analyses.attention import Attention
from lit_narrative.circuits.analyses.attribution import EdgeScores, NodeScores
from lit_narrative.circuits.analyses.faithfulness import Criteria, Faithfulness
from lit_narrative.circuits.analyses.feature_effects import FeatureEffect, PatternRow, load_effects, load_patterns
from lit_narrative.circuits.analyses.lens import Direct, Lens
from lit_narrative.circuits.analyses.patching import Patching, answers_weakly
from lit_narrative.circuits.analyses.probes import Probes
from lit_narrative.circuits.analyses.residual_features import ResidualFeatures
from lit_narrative.circuits.tables import read_json
from lit_narrative.errors import UserError
from lit_narrative.report.records import read_record

Table = TypeVar("Table")


@dataclass(frozen=True, eq=False)
class CircuitResults:
    """What analyses of one model left in a folder; an analysis that was not done is None, or has no splits.

    Attributes:
        folder: where.
        manifest: what was asked, and of which model.
        probes: of all splits.
        ablation: of all splits.
        patching: by split.
        edges: by split.
        nodes: by split.
        faithfulness: by split.
        criteria: by split.
        pruned: by split.
        lens: by split.
        direct: by split.
        attention: by split.
        features: by the hook of the SAE.
        patterns: what fires them, by the hook of the SAE.
        effects: what they add to the answer, by the hook of the SAE.
    """

    folder: Path
    manifest: Mapping[str, Any]
    probes: Probes | None
    ablation: Ablation | None
    patching: Mapping[str, Patching]
    edges: Mapping[str, EdgeScores]
    nodes: Mapping[str, NodeScores]
    faithfulness: Mapping[str, Faithfulness]
    criteria: Mapping[str, Criteria]
    pruned: Mapping[str, Pruned]
    lens: Mapping[str, Lens]
    direct: Mapping[str, Direct]
    attention: Mapping[str, Attention]
    features: Mapping[str, ResidualFeatures]
    patterns: Mapping[str, tuple[PatternRow, ...]]
    effects: Mapping[str, tuple[FeatureEffect, ...]]

    @property
    def splits(self) -> list[str]:
        """The splits that were asked for, home first."""
        return list(self.manifest["splits"])

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a folder that ``CircuitAnalysis`` wrote.

        Raises:
            UserError: there is no such folder, or a file in it is not what it should be.
        """
        folder = Path(folder)
        if not (folder / "manifest.json").is_file():
            raise UserError(f"'{folder}' is no folder of circuit analyses: it has no manifest.json")
        manifest = _read(folder / "manifest.json", read_json)
        if not isinstance(manifest, dict) or not isinstance(manifest.get("splits"), dict):
            raise UserError(f"'{folder / 'manifest.json'}' names no splits; run the analyses anew")
        splits = {split: folder / split for split in manifest["splits"]}
        hooks = {path.parent.name: path.parent for path in sorted(folder.glob("sae/*/features.csv"))}
        return cls(
            folder,
            manifest,
            _one(folder, "probes.csv", Probes.load),
            _one(folder, "ablation.csv", Ablation.load),
            _each(splits, "patching.csv", Patching.load),
            _each(splits, "circuit.json", EdgeScores.load),
            _each(splits, "nodes.json", NodeScores.load),
            _each(splits, "faithfulness.csv", Faithfulness.load),
            _each(splits, "criteria.json", Criteria.load),
            _each(splits, "acdc.json", Pruned.load),
            _each(splits, "lens.csv", Lens.load),
            _each(splits, "direct.json", Direct.load),
            _each(splits, "attention.csv", Attention.load),
            _each(hooks, "features.csv", ResidualFeatures.load),
            _each(hooks, "patterns.csv", load_patterns),
            _each(hooks, "effects.csv", load_effects),
        )


def _each(folders: Mapping[str, Path], file: str, load: Callable[[Path], Table]) -> dict[str, Table]:
    found = {name: _one(folder, file, load) for name, folder in folders.items()}
    return {name: table for name, table in found.items() if table is not None}


def _one(folder: Path, file: str, load: Callable[[Path], Table]) -> Table | None:
    """A table, if its file is there."""
    return _read(folder, load) if (folder / file).is_file() else None


def _read(path: Path, load: Callable[[Path], Table]) -> Table:
    try:
        return load(path)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"the tables in '{path}' cannot be read ({reason}); run the analyses anew") from error


def read_weak(folder: Path) -> frozenset[str]:
    """Read on which splits an analysed model hardly answers by the rule: at the majority's level, or pairs not told.

    Raises:
        UserError: a file is not what it should be.
    """
    ablation = folder / "jaccard.json"
    weak = set(map(str, read_record(ablation).items("weak_splits") if ablation.is_file() else ()))
    for path in folder.glob("*/patching.json"):
        leads = read_record(path).child("logit_diff")
        if answers_weakly(leads.number("clean"), leads.number("corrupt")):
            weak.add(path.parent.name)
    return frozenset(weak)
