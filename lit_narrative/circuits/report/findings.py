"""What the tables of circuit analyses say, in sentences that hold no more than their figures."""

from collections.abc import Iterator, Mapping
from itertools import islice

from lit_narrative.circuits.analyses.ablation import MARGIN
from lit_narrative.circuits.analyses.probes import ProbeRow
from lit_narrative.circuits.bridge import HEADS
from lit_narrative.circuits.results import CircuitResults
from lit_narrative.report.format import number, signed

GAIN = 0.1
"""A probe is called better than its controls if it is by more than this."""
ENOUGH = 0.9
"""Faithfulness from which a circuit is said to do most of what the model does."""
NAMED = 3
"""Parts, edges and probes that a sentence names."""


def gains(row: ProbeRow) -> float:
    """How much better a probe is than its control and than the commonest answer."""
    return row.score - max(row.control or 0.0, row.majority or 0.0)


def weak_splits(results: CircuitResults) -> list[str]:
    """The splits that the model hardly answers by the rule, so that what its parts are worth there says little."""
    bases = () if results.ablation is None else results.ablation.bases
    patched = [split for split, found in results.patching.items() if found.weak]
    return list(dict.fromkeys([*(base.split for base in bases if base.weak), *patched]))


def say_probes(results: CircuitResults) -> Iterator[str]:
    """For each split, which targets are read better than by control and majority."""
    assert results.probes is not None
    rows = results.probes.rows
    bars = "its control and the commonest answer"
    bars = bars if any(row.control is not None for row in rows) else "the commonest answer (there is no control)"
    for split in dict.fromkeys(row.split for row in rows):
        own = [row for row in rows if row.split == split]
        best = {row.target: row for row in sorted(own, key=gains)}
        told = sorted((row for row in best.values() if gains(row) > GAIN), key=lambda row: -gains(row))
        if not told:
            yield f"{split}: no probe beats {bars} by more than {GAIN}."
            continue
        named = "; ".join(
            f"{row.target} {number(row.score, 2)} (control {number(row.control, 2)}"
            f"{'' if row.majority is None else f', majority {number(row.majority, 2)}'}; {row.site} {row.layer})"
            for row in told[:NAMED]
        )
        yield (
            f"{split} ({own[0].n} rows): {len(told)} of {len(best)} targets are read better than by "
            f"{bars} by more than {GAIN}; first {named}."
        )
    if results.probes.skipped:
        yield f"{len(results.probes.skipped)} probes were not fitted: answers all alike, or too few rows."


def say_patching(results: CircuitResults) -> Iterator[str]:
    """For each split, what the two runs answer, and the best patch of each site within the blocks."""
    weak = weak_splits(results)
    for split, found in results.patching.items():
        named = "; ".join(
            f"{name_patch(patch.site, patch.layer, patch.head, patch.place)} {number(patch.recovery, 2)}"
            for patch in found.parts()
        )
        yield (
            f"{split} ({len(found.clean)} pairs): the answer's mean lead is {number(float(found.clean.mean()), 1)} on "
            f"clean and {number(float(found.corrupt.mean()), 1)} on corrupt prompts. Most recovery of each part of "
            f"a block (denoise): {named or 'none'}."
            f"{' The model hardly answers by the rule here: recovery is not to be trusted.' if split in weak else ''}"
        )


def name_patch(site: str, layer: int, head: int | None, place: str) -> str:
    """A patch in words: ``resid_pre 0 at answer``, or ``z of a0.h1``."""
    part = f"{site} {layer}" if head is None else f"{site} of a{layer}.h{head}"
    return part if site in HEADS and place == "all" else f"{part} at {place}"


def say_ablation(results: CircuitResults) -> Iterator[str]:
    """For each split, the parts that cost most; then whether splits rely on the same parts as home."""
    assert results.ablation is not None
    for base in results.ablation.bases:
        named = _top(results.ablation.ranking(base.split))
        weak = " The split is weak: importances are not to be trusted." if base.weak else ""
        yield (
            f"{base.split}: accuracy {number(base.accuracy, 2)}, commonest answer {number(base.majority, 2)}; most "
            f"{base.metric.replace('_', ' ')} is lost without {named}.{weak}"
        )
    for shared in results.ablation.overlaps():
        if shared.first == results.ablation.bases[0].split:
            yield (
                f"{shared.first} and {shared.second}: {shared.shared} of the top {shared.k} parts are the same "
                f"(Jaccard {number(shared.jaccard, 2)}, by chance {number(shared.chance, 2)}; Spearman over all parts "
                f"{number(shared.spearman, 2)}){', one of them weak' if shared.weak else ''}."
            )


def _top(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} ({signed(value, 2)})" for name, value in islice(values.items(), NAMED))


def say_attribution(results: CircuitResults) -> Iterator[str]:
    """For each split, the strongest edges, and how many of them do most of what the model does."""
    for split, edges in results.edges.items():
        named = _top({f"{source}→{reader}": score for (source, reader), score in edges.named(NAMED).items()})
        yield f"{split}: the strongest of {len(edges.graph.edges)} edges ({edges.method}) are {named}."
        curve = results.faithfulness.get(split)
        if curve is None:
            continue
        point = next(point for point in curve.points if point.faithfulness >= ENOUGH or point is curve.points[-1])
        random = "" if point.random is None else f", as many random ones {number(point.random, 2)}"
        yield (
            f"{split}: the top {point.edges} of {curve.points[-1].edges} edges recover "
            f"{number(point.faithfulness, 2)} of the answer's lead{random}. CPR {number(curve.cpr, 2)} (random "
            f"{number(curve.random_cpr, 2)}), CMD {number(curve.cmd, 2)}."
        )


def say_acdc(results: CircuitResults) -> Iterator[str]:
    """For each split, what is left, and how it is judged."""
    for split, pruned in results.pruned.items():
        yield (
            f"{split}: {len(pruned.kept)} of {len(pruned.graph.edges)} edges stay (threshold {pruned.threshold:g}), "
            f"with faithfulness {number(pruned.faithfulness, 2)} on the pairs that they were found on."
        )
        if judged := results.criteria.get(split):
            yield (
                f"{split}, on other pairs: faithfulness {number(judged.faithfulness, 2)}, completeness "
                f"{number(judged.completeness, 2)}, incompleteness {number(judged.incompleteness, 2)}, minimality "
                f"{number(judged.minimality)} (idlest edge {judged.idlest.replace('->', '→')})."
            )


def say_lens(results: CircuitResults) -> Iterator[str]:
    """For each split, accuracy by layer, and the largest direct contributions."""
    for split, lens in results.lens.items():
        by_layer = ", ".join(number(row.accuracy, 2) for row in lens.rows)
        yield f"{split}: accuracy read before layer 0, 1 … and at the end: {by_layer}."
    for split, direct in results.direct.items():
        lead = number(float(direct.logit_diff.mean()), 1)
        yield f"{split}: of a mean lead of {lead}, most comes directly from {_top(dict(direct.ranked()))}."


def say_attention(results: CircuitResults) -> Iterator[str]:
    """For each split, the strongest looks of one place at another."""
    for split, attention in results.attention.items():
        looks = sorted((row for row in attention.rows if row.query != row.key), key=lambda row: -row.weight)
        named = "; ".join(
            f"a{row.layer}.h{row.head} from {row.query} to {row.key} ({number(row.weight, 2)})" for row in looks[:NAMED]
        )
        yield f"{split}: most attention to another named place: {named or 'none'}."


def say_sae(results: CircuitResults) -> Iterator[str]:
    """For each hook, how well the SAE rebuilds each split, and the kinds of its features."""
    for hook, found in results.features.items():
        for fit in found.fits:
            counts = found.counts(fit.split)
            kinds = ", ".join(f"{count} {kind.replace('_', '-')}" for kind, count in counts.items() if count)
            yield (
                f"{hook}, {fit.split} ({fit.n} tokens): explained variance {number(fit.explained_variance)}, "
                f"{number(fit.l0, 1)} features at once{f'; {kinds}' if kinds else ''}."
            )


FINDINGS = {
    "probes": say_probes,
    "patching": say_patching,
    "ablation": say_ablation,
    "attribution": say_attribution,
    "acdc": say_acdc,
    "lens": say_lens,
    "attention": say_attention,
    "sae": say_sae,
}


def warn(results: CircuitResults) -> Iterator[str]:
    """What a reader must know before believing any figure."""
    if results.ablation is not None and (weak := [base.split for base in results.ablation.bases if base.weak]):
        yield (
            f"On {', '.join(weak)} the model is less than {MARGIN} better than the commonest answer: what its parts "
            "are worth there says little."
        )
    for split, found in results.patching.items():
        clean, corrupt = float(found.clean.mean()), float(found.corrupt.mean())
        if found.weak:
            yield (
                f"On {split} the model does not tell the two prompts of a pair apart as it should (the clean answer's "
                f"mean lead is {number(clean, 1)} on clean and {number(corrupt, 1)} on corrupt prompts): recovery and "
                "edges there say little about right answers."
            )
    for split, counts in results.manifest["splits"].items():
        if dropped := counts.get("pairs_dropped", 0):
            yield f"On {split}, {dropped} pairs were left out: this tokenizer cannot set their prompts side by side."
