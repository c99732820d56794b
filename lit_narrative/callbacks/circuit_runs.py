"""The analyses of CircuitAnalysis by name: each reads its material, writes its files, and gives a few figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from lit_narrative.circuits.ablation import AblationSettings, ablate
from lit_narrative.circuits.attribution import AttributionSettings, attribute_edges, attribute_nodes
from lit_narrative.circuits.contrasts import Contrasts, encode_contrasts
from lit_narrative.circuits.faithfulness import CurveSettings, curve
from lit_narrative.circuits.lens import direct_attribution, logit_lens
from lit_narrative.circuits.patches import PatchingSettings
from lit_narrative.circuits.patching import patch
from lit_narrative.circuits.probes import ProbeSettings, fit_probes, gather
from lit_narrative.circuits.questions import Questions, encode_questions
from lit_narrative.circuits.residual_features import compare_splits
from lit_narrative.circuits.residual_sae import ResidualSAESettings, residuals, splice, train_sae
from lit_narrative.circuits.sweep import Progress
from lit_narrative.datamodules.base import TaskDataModule
from lit_narrative.errors import UserError
from lit_narrative.files import write_json
from lit_narrative.views import ContrastPair, Example

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Layers = Literal["all"] | Sequence[int]


@dataclass(frozen=True)
class CircuitSettings:
    """Settings of each analysis.

    Args:
        probes: what is read off activations, and how.
        patching: what is exchanged between the prompts of a pair.
        ablation: what is taken out.
        attribution: how edges are scored.
        faithfulness: the circuits on which the scores are judged.
        sae: the sparse autoencoder.
    """

    probes: ProbeSettings = field(default_factory=ProbeSettings)
    patching: PatchingSettings = field(default_factory=PatchingSettings)
    ablation: AblationSettings = field(default_factory=AblationSettings)
    attribution: AttributionSettings = field(default_factory=AttributionSettings)
    faithfulness: CurveSettings = field(default_factory=CurveSettings)
    sae: ResidualSAESettings = field(default_factory=ResidualSAESettings)

    def within(self, layers: Layers) -> "CircuitSettings":
        """The same for some layers, where an analysis does not name its own."""
        parts = {name: getattr(self, name) for name in ("probes", "patching", "ablation")}
        return replace(
            self, **{name: replace(own, layers=layers) for name, own in parts.items() if own.layers == "all"}
        )

    def tiny(self) -> "CircuitSettings":
        """The same with hardly any work, to try whether it runs."""
        return replace(
            self,
            patching=replace(self.patching, places=("answer",)),
            attribution=replace(self.attribution, steps=1),
            faithfulness=replace(self.faithfulness, fractions=(), random=0),
            sae=replace(self.sae, steps=2, expansion=1),
        )


@dataclass(frozen=True, eq=False)
class Material:
    """What is analysed, the same for every model.

    Attributes:
        rows: examples by split; the first split is home: probes, means and the SAE come from it.
        questions: the same as tokens.
        pairs: contrast pairs by split, those that this tokenizer can set against each other.
        dropped: by split, pairs that it cannot: unequal in length, or with answers that begin alike.
        tokenizer: the model's.
    """

    rows: Mapping[str, Sequence[Example]]
    questions: Mapping[str, Questions]
    pairs: Mapping[str, Sequence[ContrastPair]]
    dropped: Mapping[str, int]
    tokenizer: PreTrainedTokenizerBase

    @property
    def home(self) -> str:
        """The split that things are fitted on."""
        return next(iter(self.questions))

    def contrasts(self, split: str) -> Contrasts:
        """The pairs of a split as tokens."""
        return encode_contrasts(self.pairs[split], self.tokenizer)


def collect(
    data: TaskDataModule, tokenizer: PreTrainedTokenizerBase, splits: Sequence[str], examples: int, paired: bool
) -> Material:
    """Read the rows to analyse, and pairs if they are asked for.

    Args:
        data: the task.
        tokenizer: the model's.
        splits: names of sets, home first.
        examples: rows, and pairs, of each split at most.
        paired: whether pairs are needed.

    Raises:
        UserError: there is no such set, it has no rows, or no pair can be used.
    """
    rows = {split: list(islice(data.questions(split), examples)) for split in splits}
    questions = {split: encode_questions(own, tokenizer) for split, own in rows.items()}
    found = {split: list(islice(data.contrasts(split), examples)) for split in splits} if paired else {}
    pairs = {split: _usable(own, tokenizer) for split, own in found.items()}
    return Material(rows, questions, pairs, {s: len(found[s]) - len(own) for s, own in pairs.items()}, tokenizer)


def _usable(pairs: Sequence[ContrastPair], tokenizer: PreTrainedTokenizerBase) -> list[ContrastPair]:
    """The pairs that can be encoded; if there is none, the reason why the first cannot."""
    kept: list[ContrastPair] = []
    reasons: list[UserError] = []
    for pair in pairs:
        try:
            encode_contrasts([pair], tokenizer)
            kept.append(pair)
        except UserError as error:
            reasons.append(error)
    if not kept:
        raise reasons[0] if reasons else UserError("there are no contrast pairs to analyse; the task must offer one")
    return kept


@dataclass(frozen=True, eq=False)
class Analysis:
    """One analysis of one model: where to read, how, and where to write."""

    bridge: "TransformerBridge"
    material: Material
    settings: CircuitSettings
    folder: Path
    progress: Progress | None = None


Figures = dict[str, float]


def run_probes(job: Analysis) -> Figures:
    """Probes fitted at home and judged on every split."""
    targets = probe_targets(job.material)
    settings = job.settings.probes
    features = {split: gather(job.bridge, own, settings) for split, own in job.material.questions.items()}
    found = fit_probes(features, targets, job.material.home, settings, job.progress)
    found.save(job.folder)
    best = [found.of(target, f"{job.material.home}_heldout") for target in targets[job.material.home]]
    gains = [max(row.selectivity for row in rows if row.selectivity is not None) for rows in best if rows]
    return {"selectivity": float(np.mean(gains))} if settings.controls and gains else {}


def probe_targets(material: Material) -> dict[str, dict[str, np.ndarray]]:
    """Of each split, (n,) answers by name: those that home has; NaN or an empty text where a row lacks it.

    Raises:
        UserError: the rows have nothing to probe for.
    """
    own = [row.meta.get("targets", {}) for row in material.rows[material.home]]
    kinds = {name: type(value) for targets in own for name, value in targets.items()}
    if not kinds:
        raise UserError(
            "probes: the task's rows name nothing to probe for; leave probes out of `analyses`, or give the rows of "
            "`questions` a `targets` in their meta"
        )
    return {
        split: {
            name: np.array([row.meta.get("targets", {}).get(name, np.nan if kind is float else "") for row in rows])
            for name, kind in kinds.items()
        }
        for split, rows in material.rows.items()
    }


def run_patching(job: Analysis) -> Figures:
    """Patches between the prompts of each split's pairs."""
    figures: Figures = {}
    for split in job.material.pairs:
        found = patch(job.bridge, job.material.contrasts(split), job.settings.patching, job.progress)
        found.save(job.folder / split)
        recovered = [item.recovery for item in found.top(1) if item.recovery is not None]
        figures |= {f"{split}/recovery": value for value in recovered}
    return figures


def run_ablation(job: Analysis) -> Figures:
    """What each part is worth on every split; home gives the means and samples."""
    questions = job.material.questions
    found = ablate(job.bridge, questions, questions[job.material.home], job.settings.ablation, job.progress)
    found.save(job.folder)
    figures = {f"{base.split}/accuracy": base.accuracy for base in found.bases}
    shared = {f"{item.second}/jaccard": item.jaccard for item in found.overlaps() if item.first == job.material.home}
    return figures | shared


def run_attribution(job: Analysis) -> Figures:
    """Scores of edges and parts on one half of each split's pairs, judged as circuits on the other half."""
    figures: Figures = {}
    for split in job.material.pairs:
        scored, judged = halves(job.material, split)
        edges = attribute_edges(job.bridge, scored, job.settings.attribution, job.progress)
        edges.save(job.folder / split)
        if job.settings.attribution.method != "exact":
            attribute_nodes(job.bridge, scored, job.settings.attribution, job.progress).save(job.folder / split)
        faithful = curve(job.bridge, judged, edges, job.settings.faithfulness, job.progress)
        faithful.save(job.folder / split)
        figures[f"{split}/cpr"] = faithful.cpr
    return figures


def halves(material: Material, split: str) -> tuple[Contrasts, Contrasts]:
    """The first and the second half of a split's pairs; a single pair is both."""
    pairs, middle = material.pairs[split], len(material.pairs[split]) // 2
    first, second = (pairs[:middle], pairs[middle:]) if middle else (pairs, pairs)
    return encode_contrasts(first, material.tokenizer), encode_contrasts(second, material.tokenizer)


def run_lens(job: Analysis) -> Figures:
    """What each layer would answer, and what each part adds to the answer directly."""
    figures: Figures = {}
    for split in job.material.pairs:
        asked = job.material.contrasts(split).questions("clean")
        lens = logit_lens(job.bridge, asked)
        lens.save(job.folder / split)
        direct_attribution(job.bridge, asked).save(job.folder / split)
        figures[f"{split}/logit_diff"] = lens.rows[-1].logit_diff
    return figures


def run_sae(job: Analysis) -> Figures:
    """An SAE of the home split's activations, its features on every split, and what splicing it in costs."""
    settings, material, folder = job.settings.sae, job.material, job.folder / "sae" / job.settings.sae.hook
    vectors = {split: residuals(job.bridge, own, settings.hook) for split, own in material.questions.items()}
    sae = train_sae(vectors[material.home].vectors, settings, job.progress)
    found = compare_splits(
        sae, vectors, material.home, material.questions, lambda ids: str(material.tokenizer.decode(list(ids)))
    )
    folder.mkdir(parents=True, exist_ok=True)
    sae.save_model(folder)
    found.save(folder)
    spliced = {split: splice(job.bridge, sae, own, settings.hook) for split, own in material.questions.items()}
    write_json(folder / "splice.json", spliced)
    home = next(fit for fit in found.fits if fit.split == material.home)
    return {"explained_variance": home.explained_variance, "l0": home.l0}


RUNS: dict[str, Callable[[Analysis], Figures]] = {
    "probes": run_probes,
    "patching": run_patching,
    "ablation": run_ablation,
    "attribution": run_attribution,
    "lens": run_lens,
    "sae": run_sae,
}
PAIRED = ("patching", "attribution", "lens")
"""Analyses that need contrast pairs."""
