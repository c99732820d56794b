"""A folder as CircuitAnalysis writes it, made by every analysis of the model whose mechanism is known."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lit_narrative.circuits.analyses.ablation import ablate
from lit_narrative.circuits.analyses.acdc import PruningSettings, prune
from lit_narrative.circuits.analyses.attention import attend
from lit_narrative.circuits.analyses.attribution import AttributionSettings, attribute_edges, attribute_nodes
from lit_narrative.circuits.analyses.faithfulness import Circuits, CurveSettings, curve, measure_circuit
from lit_narrative.circuits.analyses.feature_effects import PatternRow, feature_effects, save_effects, save_patterns
from lit_narrative.circuits.analyses.lens import direct_attribution, logit_lens
from lit_narrative.circuits.analyses.patching import patch
from lit_narrative.circuits.analyses.probes import fit_probes, gather
from lit_narrative.circuits.analyses.residual_features import compare_splits
from lit_narrative.circuits.analyses.residual_sae import ResidualSAESettings, residuals, train_sae
from lit_narrative.circuits.bridge import build_bridge, shape
from lit_narrative.circuits.linear_probe import ProbeSettings
from tests.circuits.planted import planted_contrasts, planted_inputs, planted_lm, prompts

HOOK = "blocks.1.hook_resid_pre"
SPLITS = {"id_test": 1, "other": 2}
HOSTILE = "<script>alert(1)</script>"


def make_results(folder: Path, noise: float = 0.02, **manifest: Any) -> Path:
    """Analyse the planted model; ``manifest`` replaces entries of the manifest."""
    bridge, rows = build_bridge(planted_lm(noise)), 24
    inputs = {split: planted_inputs(rows, seed) for split, seed in SPLITS.items()}
    probing = ProbeSettings(sites=("resid_post",), places=("marked", "answer"))
    letters = {split: {"letter": prompts(rows, seed)[2].numpy()} for split, seed in SPLITS.items()}
    fit_probes(
        {split: gather(bridge, split_inputs, probing) for split, split_inputs in inputs.items()}, letters, "id_test"
    ).save(folder)
    ablate(bridge, inputs, inputs["id_test"]).save(folder)
    for split, seed in SPLITS.items():
        _of_pairs(bridge, folder / split, seed)
        attend(bridge, inputs[split]).save(folder / split)
    _features(bridge, folder / "sae" / HOOK, inputs)
    counts = {split: {"examples": rows, "pairs": 4, "pairs_dropped": 0} for split in SPLITS}
    stored = {"model": shape(bridge)._asdict(), "home": "id_test", "splits": counts, "checkpoint": "runs/sft/last.ckpt"}
    stored |= {"settings": {"probes": asdict(probing)}, "figures": {"sae/l0": 2.0}, "errors": {}, "analyses": ["all"]}
    (folder / "manifest.json").write_text(json.dumps({**stored, **manifest}))
    return folder


def _of_pairs(bridge: Any, folder: Path, seed: int) -> None:
    pairs = planted_contrasts(4, seed)
    patch(bridge, pairs).save(folder)
    edges = attribute_edges(bridge, pairs, AttributionSettings(steps=1))
    edges.save(folder)
    attribute_nodes(bridge, pairs, AttributionSettings(steps=1)).save(folder)
    curve(bridge, pairs, edges, CurveSettings((0.1, 0.5), random=1)).save(folder)
    pruned = prune(bridge, pairs, PruningSettings(threshold=0.2))
    pruned.save(folder)
    measure_circuit(Circuits(bridge, pairs), pruned.kept, draws=1).save(folder)
    logit_lens(bridge, pairs.inputs("clean")).save(folder)
    direct_attribution(bridge, pairs.inputs("clean")).save(folder)


def _features(bridge: Any, folder: Path, inputs: Any) -> None:
    splits = {split: residuals(bridge, split_inputs, HOOK) for split, split_inputs in inputs.items()}
    sae = train_sae(splits["id_test"].vectors, ResidualSAESettings(HOOK, expansion=1, options={"k": 2}, steps=20))
    folder.mkdir(parents=True)
    sae.save_model(folder)
    compare_splits(sae, splits, "id_test", inputs, lambda ids: HOSTILE + " ".join(map(str, ids))).save(folder)
    labels = (HOSTILE, "RED 3", "$x^$")
    rows = [PatternRow("id_test", n, "card", label, 3, 0.5, 0.9) for n in range(sae.cfg.d_sae) for label in labels]
    save_patterns(folder, rows)
    save_effects(
        folder, {split: feature_effects(bridge, sae, split_inputs, HOOK) for split, split_inputs in inputs.items()}
    )


def png_size(path: Path) -> tuple[int, int]:
    """Width and height of an image that Pillow can read to its end."""
    from PIL import Image

    with Image.open(path) as image:
        assert np.asarray(image.convert("RGB")).std() > 1  # not blank
        return image.size
