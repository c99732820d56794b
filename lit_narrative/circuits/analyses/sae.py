"""The analysis by a sparse autoencoder: trained on the reference split's stream, its features compared over splits.

`residual_sae` trains and splices it, `residual_features` compares firing rates, `feature_effects` says what features
add to the answer and which named patterns fire them. All files lie in ``sae/<hook>/``.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from lit_narrative.circuits.analyses.feature_effects import (
    PatternRow,
    feature_effects,
    feature_patterns,
    load_effects,
    load_patterns,
    save_effects,
    save_patterns,
    token_labels,
)
from lit_narrative.circuits.analyses.residual_features import FeatureRow, ResidualFeatures, compare_splits
from lit_narrative.circuits.analyses.residual_sae import ResidualSAESettings, residuals, splice, train_sae
from lit_narrative.circuits.analysis import (
    About,
    Analysis,
    AnalysisJob,
    CircuitResults,
    Metrics,
    Models,
    Sketch,
    Table,
    shared,
)
from lit_narrative.circuits.bridge import unknown_hook
from lit_narrative.circuits.figures.features import draw_patterns, draw_rates
from lit_narrative.circuits.hooks import Progress
from lit_narrative.circuits.tables import read_arrays
from lit_narrative.files import write_json
from lit_narrative.report.format import number
from lit_narrative.report.page import render
from lit_narrative.sae.metrics import match_features

CARRY = 8
"""Features that are listed as those that the answer rests on most."""
LISTED, EXAMPLES, TEXT = 3, 3, 160
"""Features of a kind that are shown with what fires them, examples of each, and characters of an example."""
FEW = 3
"""Labels from which a kind of patterns gets a figure; yes-or-no ones are in the table only."""
MATCHED = 4096
"""Features of a larger dictionary are not matched: the optimal assignment takes cubic time."""

FEATURES = Table("features.csv", ResidualFeatures.load, "sae/*")
PATTERNS = Table("patterns.csv", load_patterns, "sae/*")
EFFECTS = Table("effects.csv", load_effects, "sae/*")


def _check(job: AnalysisJob) -> None:
    hook = job.settings_of(ResidualSAESettings).within("all").hook
    if hook not in job.bridge.hook_dict:
        raise unknown_hook(job.bridge, hook)


def _run(job: AnalysisJob, folder: Path, progress: Progress | None) -> Metrics:
    """An SAE of the reference split's activations: its features on every split, and the cost of splicing it in."""
    settings, data = job.settings_of(ResidualSAESettings).within("all"), job.data
    hook, reference = settings.hook, data.reference_split
    folder = folder / "sae" / hook
    vectors = {split: residuals(job.bridge, inputs, hook) for split, inputs in data.inputs.items()}
    sae = train_sae(vectors[reference].vectors, settings, progress)
    features = compare_splits(sae, vectors, reference, data.inputs, lambda ids: str(data.tokenizer.decode(list(ids))))
    folder.mkdir(parents=True, exist_ok=True)
    sae.save_model(folder)
    features.save(folder)
    labels = {split: token_labels(rows, data.inputs[split], data.tokenizer) for split, rows in data.rows.items()}
    save_patterns(folder, feature_patterns(sae, vectors, labels))
    answers = {split: splice(job.bridge, sae, inputs, hook) for split, inputs in data.inputs.items()}
    write_json(folder / "splice.json", answers)
    effects = {split: feature_effects(job.bridge, sae, inputs, hook) for split, inputs in data.inputs.items()}
    save_effects(folder, effects)
    fit = next(fit for fit in features.fits if fit.split == reference)
    return {"explained_variance": fit.explained_variance, "l0": fit.l0}


# --- one model ------------------------------------------------------------------------------------------------------


def _draw(models: Models) -> Iterator[Sketch]:
    for hook, features in shared(models, FEATURES).items():
        title = f"Firing rates of the features of {hook}"
        yield Sketch(f"features_{hook}", title, partial(draw_rates, features))
        if len(models) == 1:  # features of two models have no numbers in common
            yield from _draw_patterns(next(iter(models.values())), hook)


def _draw_patterns(results: CircuitResults, hook: str) -> Iterator[Sketch]:
    rows = [row for row in results.each(PATTERNS).get(hook, ()) if row.split == results.reference_split]
    for kind in dict.fromkeys(row.kind for row in rows):
        of_kind = [row for row in rows if row.kind == kind]
        if len({row.label for row in of_kind}) >= FEW:
            title = f"Which features tell {kind} apart on the reference split ({hook})"
            yield Sketch(f"patterns_{kind}_{hook}", title, partial(draw_patterns, of_kind))


def _findings(results: CircuitResults) -> Iterator[str]:
    """For each hook, how well the SAE rebuilds each split, and the kinds of its features."""
    for hook, features in results.each(FEATURES).items():
        for fit in features.fits:
            counts = features.counts(fit.split)
            kinds = ", ".join(f"{count} {kind.replace('_', '-')}" for kind, count in counts.items() if count)
            yield (
                f"{hook}, {fit.split} ({fit.n} tokens): explained variance {number(fit.explained_variance)}, "
                f"{number(fit.l0, 1)} features at once{f'; {kinds}' if kinds else ''}."
            )


def _details(results: CircuitResults) -> Markup:
    effects, features = _largest_effects(results), _examples(results)
    return render(__name__, "features.html", effects=effects, hooks=features)


def _largest_effects(results: CircuitResults) -> dict[str, dict[int, dict[str, float]]]:
    """By hook, the features with the largest effect on any split's answers: their effects by split."""
    tables: dict[str, dict[int, dict[str, float]]] = {}
    for hook, rows in results.each(EFFECTS).items():
        largest = sorted(rows, key=lambda row: -abs(row.effect))
        chosen = list(dict.fromkeys(row.feature for row in largest))[:CARRY]
        known = {(row.feature, row.split): row.effect for row in rows}
        splits = [split for split in results.splits if any(row.split == split for row in rows)]
        tables[hook] = {key: {split: known.get((key, split), 0.0) for split in splits} for key in chosen}
    return {hook: rows for hook, rows in tables.items() if rows}


def _examples(results: CircuitResults) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """By hook and kind, a few features that fire often, with the texts that fire them most and patterns."""
    listed: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for hook, features in results.each(FEATURES).items():
        for kind, name in (("id_specific", "ID-specific"), ("ood_specific", "OOD-specific"), ("stable", "stable")):
            rows = sorted(
                (row for row in features.rows if row.kind == kind), key=lambda row: -max(row.id_rate, row.rate)
            )
            once = {row.feature: row for row in reversed(rows)}  # of a feature on several splits, its highest rate
            chosen = sorted(once.values(), key=lambda row: -max(row.id_rate, row.rate))[:LISTED]
            if chosen:
                listed.setdefault(hook, {})[name] = [_describe(row, results, hook) for row in chosen]
    return listed


def _describe(row: FeatureRow, results: CircuitResults, hook: str) -> dict[str, Any]:
    examples = (example for example in results.each(FEATURES)[hook].top if example["feature"] == row.feature)
    texts = [{**example, "text": _end(str(example.get("text", "")))} for example in islice(examples, EXAMPLES)]
    return {
        "number": row.feature,
        "split": row.split,
        "id_rate": row.id_rate,
        "rate": row.rate,
        "patterns": _nearest_patterns(row.feature, results, hook),
        "examples": texts,
    }


def _nearest_patterns(feature: int, results: CircuitResults, hook: str) -> list[PatternRow]:
    rows = [
        row
        for row in results.each(PATTERNS).get(hook, ())
        if row.feature == feature and row.split == results.reference_split and row.correlation is not None
    ]
    return sorted(rows, key=lambda row: -(row.correlation or 0.0))[:LISTED]


def _end(text: str) -> str:
    """The last characters of a text: a feature is fired by its last token."""
    return "…" + text[1 - TEXT :].lstrip() if len(text) > TEXT else text


# --- two models -----------------------------------------------------------------------------------------------------


def _changes(old: CircuitResults, new: CircuitResults) -> dict[str, Any]:
    """For each hook, the kinds of both models' features by split, and how similar their directions are."""
    hooks = {}
    for hook, tables in shared({"old": old, "new": new}, FEATURES).items():
        splits = dict.fromkeys(row.split for row in tables["new"].rows)
        kinds = {split: {name: table.counts(split) for name, table in tables.items()} for split in splits}
        hooks[hook] = {"kinds": kinds, **dict(_similarity(old, new, hook))}
    return {"sae": hooks}


def _similarity(old: CircuitResults, new: CircuitResults, hook: str) -> Iterator[tuple[str, float]]:
    """Mean cosine of the matched decoder directions, and of a match with as many random directions."""
    weights = [read_arrays(model.folder / "sae" / hook / "sae_weights.safetensors")["W_dec"] for model in (old, new)]
    if weights[0].shape == weights[1].shape and len(weights[0]) <= MATCHED:
        noise = np.random.default_rng(0).standard_normal(weights[0].shape)
        yield "matched_cosine", match_features(*weights).mean_cosine
        yield "matched_cosine_of_random", match_features(weights[0], noise).mean_cosine


def _change_findings(changes: Mapping[str, Any]) -> Iterator[str]:
    for hook, change in changes["sae"].items():
        if "matched_cosine" in change:
            yield (
                f"{hook}: each model has an autoencoder of its own. Their features, matched one to one by direction, "
                f"have a mean cosine of {number(change['matched_cosine'], 2)} (with random directions "
                f"{number(change['matched_cosine_of_random'], 2)}; 1 is the same features)."
            )
        for split, kinds in change["kinds"].items():
            named = ", ".join(
                f"{kind.replace('_', '-')} {kinds['old'][kind]} → {count}" for kind, count in kinds["new"].items()
            )
            yield f"{hook} on {split}: {named}."


ANALYSIS = Analysis(
    "sae",
    About(
        "Features of a sparse autoencoder",
        "Which directions of the stream belong to the reference split alone, and which are shared with other splits? "
        "The autoencoder is trained on activations of the reference split.",
        "One dot is one feature: how often it fires on the reference split and on the other split. Lines are equal "
        "rates and four times as often. ID-specific features lie below the band, OOD-specific ones above it, stable "
        "ones near the middle line. Where the task names patterns, a heat map correlates each feature's activation "
        "with them. A firing feature is not yet one that the answer rests on.",
    ),
    _run,
    settings={"sae": ResidualSAESettings},
    meanings={
        "explained_variance": "share of the activations' variance that the autoencoder keeps",
        "l0": "features active at once",
    },
    check=_check,
    # Activations, the three runs of `splice`, and gradients.
    work=lambda job: 7 * sum(map(len, job.data.inputs.values())),
    tables=(FEATURES, PATTERNS, EFFECTS),
    draw=_draw,
    findings=_findings,
    details=_details,
    changes=_changes,
    change_findings=_change_findings,
    order=80,
)
