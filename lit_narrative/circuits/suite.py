"""The analyses of CircuitAnalysis by name: each reads its material, writes its files, and gives a few figures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lit_narrative.circuits.analyses.ablation import AblationSettings, ablate, list_units
from lit_narrative.circuits.analyses.acdc import PruningSettings, prune
from lit_narrative.circuits.analyses.attention import attend
from lit_narrative.circuits.analyses.attribution import AttributionSettings, attribute_edges, attribute_nodes
from lit_narrative.circuits.analyses.faithfulness import Circuits, CurveSettings, curve, judge
from lit_narrative.circuits.analyses.feature_effects import (
    feature_effects,
    feature_patterns,
    save_effects,
    save_patterns,
    token_labels,
)
from lit_narrative.circuits.analyses.lens import direct_attribution, logit_lens
from lit_narrative.circuits.analyses.patching import PatchingSettings, patch
from lit_narrative.circuits.analyses.probes import ProbeSettings, fit_probes, gather
from lit_narrative.circuits.analyses.residual_features import compare_splits
from lit_narrative.circuits.analyses.residual_sae import ResidualSAESettings, residuals, splice, train_sae
from lit_narrative.circuits.bridge import check_layers, unknown_hook
from lit_narrative.circuits.hooks import Progress
from lit_narrative.circuits.material import Material, halves, probe_targets
from lit_narrative.files import write_json

if TYPE_CHECKING:
    from sae_lens import SAE
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
        acdc: which edges are dropped.
        sae: the sparse autoencoder.
    """

    probes: ProbeSettings = field(default_factory=ProbeSettings)
    patching: PatchingSettings = field(default_factory=PatchingSettings)
    ablation: AblationSettings = field(default_factory=AblationSettings)
    attribution: AttributionSettings = field(default_factory=AttributionSettings)
    faithfulness: CurveSettings = field(default_factory=CurveSettings)
    acdc: PruningSettings = field(default_factory=PruningSettings)
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
            acdc=replace(self.acdc, max_pairs=2, max_edges=4, draws=1),
            sae=replace(self.sae, steps=2, expansion=1),
        )


def check_settings(
    bridge: "TransformerBridge", material: Material, settings: CircuitSettings, analyses: Sequence[str]
) -> None:
    """Try the layers, hooks and places that the settings of some analyses name, before any of them begins.

    Raises:
        UserError: the model or the rows lack one, or parts are too many.
    """
    if "probes" in analyses:
        check_layers(bridge, settings.probes.layers)
        for own in material.questions.values():
            if own.places is not None:
                own.places.pick(settings.probes.places)
    if "patching" in analyses:
        check_layers(bridge, settings.patching.layers)
        for split in material.pairs if not isinstance(settings.patching.places, str) else ():
            material.contrasts(split).places.pick(settings.patching.places)
    if "ablation" in analyses:
        list_units(bridge, settings.ablation)
    if "sae" in analyses and settings.sae.hook not in bridge.hook_dict:
        raise unknown_hook(bridge, settings.sae.hook)


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


def run_patching(job: Analysis) -> Figures:
    """Patches between the prompts of each split's pairs."""
    figures: Figures = {}
    for split in job.material.pairs:
        found = patch(job.bridge, job.material.contrasts(split), job.settings.patching, job.progress)
        found.save(job.folder / split)
        if recovered := [item.recovery for item in found.parts() if item.recovery is not None]:
            figures[f"{split}/recovery"] = max(recovered)
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


def run_acdc(job: Analysis) -> Figures:
    """The edges that are left of each split's circuit, found on one half of its pairs and judged on the other."""
    figures: Figures = {}
    for split in job.material.pairs:
        scored, judged = halves(job.material, split)
        found = prune(job.bridge, scored, job.settings.acdc, job.progress)
        found.save(job.folder / split)
        figures[f"{split}/edges"] = float(len(found.kept))
        if found.kept:
            settings = job.settings.acdc
            circuits = Circuits(job.bridge, judged.first(settings.max_pairs), settings.batch_size)
            criteria = judge(circuits, found.kept, draws=settings.draws, seed=settings.seed, progress=job.progress)
            criteria.save(job.folder / split)
            figures[f"{split}/faithfulness"] = criteria.faithfulness
    return figures


def run_attention(job: Analysis) -> Figures:
    """Where each head looks, between the places that the task names."""
    for split, questions in job.material.questions.items():
        attend(job.bridge, questions, progress=job.progress).save(job.folder / split)
    return {}


def run_sae(job: Analysis) -> Figures:
    """An SAE of the home split's activations: its features on every split, and what splicing it in costs."""
    settings, material, folder = job.settings.sae, job.material, job.folder / "sae" / job.settings.sae.hook
    vectors = {split: residuals(job.bridge, own, settings.hook) for split, own in material.questions.items()}
    sae = train_sae(vectors[material.home].vectors, settings, job.progress)
    found = compare_splits(
        sae, vectors, material.home, material.questions, lambda ids: str(material.tokenizer.decode(list(ids)))
    )
    folder.mkdir(parents=True, exist_ok=True)
    sae.save_model(folder)
    found.save(folder)
    labels = {
        split: token_labels(rows, material.questions[split], material.tokenizer)
        for split, rows in material.rows.items()
    }
    save_patterns(folder, feature_patterns(sae, vectors, labels))
    _answers_with(job, sae, folder)
    home = next(fit for fit in found.fits if fit.split == material.home)
    return {"explained_variance": home.explained_variance, "l0": home.l0}


def _answers_with(job: Analysis, sae: "SAE[Any]", folder: Path) -> None:
    """Write what the SAE in the stream's place costs, and which features the answers rest on."""
    asked, hook = job.material.questions, job.settings.sae.hook
    write_json(folder / "splice.json", {split: splice(job.bridge, sae, own, hook) for split, own in asked.items()})
    save_effects(folder, {split: feature_effects(job.bridge, sae, own, hook) for split, own in asked.items()})


RUNS: dict[str, Callable[[Analysis], Figures]] = {
    "probes": run_probes,
    "patching": run_patching,
    "ablation": run_ablation,
    "attribution": run_attribution,
    "acdc": run_acdc,
    "lens": run_lens,
    "attention": run_attention,
    "sae": run_sae,
}

PAIRED = ("patching", "attribution", "acdc", "lens")
"""Analyses that need contrast pairs."""
