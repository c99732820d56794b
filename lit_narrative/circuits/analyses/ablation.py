"""Ablation: how much worse the model answers when one of its parts is replaced by a constant or by another row's.

A part is a head, a whole attention, an MLP or a neuron. The loss is the unchanged model's score less the ablated one's.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import torch
from torch import Tensor

from lit_narrative.circuits.analysis import (
    About,
    Analysis,
    AnalysisJob,
    AnalysisSettings,
    CircuitResults,
    Layers,
    Metrics,
    Models,
    Sketch,
    Table,
    shared,
)
from lit_narrative.circuits.bridge import check_layers, shape
from lit_narrative.circuits.figures.parts import draw_ablation, draw_overlaps
from lit_narrative.circuits.hooks import Edit, Mode, Progress, batched_interventions, capture, shifted, substitute
from lit_narrative.circuits.inputs import AnalysisInputs, Scores
from lit_narrative.circuits.records.ablation import MARGIN, Ablation, Base, Importance
from lit_narrative.circuits.report.findings import name_first, say_overlap
from lit_narrative.errors import UserError, check_least, did_you_mean
from lit_narrative.report.format import number
from lit_narrative.report.records import read_record

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


HOOKS = {"heads": "attn.hook_z", "attn": "hook_attn_out", "mlp": "hook_mlp_out", "neurons": "mlp.hook_post"}
"""Kinds of parts, and the hook at which each is replaced."""


@dataclass(frozen=True)
class AblationSettings(AnalysisSettings):
    """Parts that are replaced, and by what.

    Args:
        units: kinds of parts, of ``HOOKS``.
        mode: ``zero``; ``mean`` over the reference split's rows and columns; ``positional_mean`` over the rows, column
            by column; ``resample``, another row's activation in the same column. Columns are counted from the end.
        layers: some of them, or all.
        max_units: more parts than this are refused (neurons are many).
        batch_size: rows of one forward pass.
        seed: of the rows that resampling draws.
    """

    units: Sequence[str] = ("heads", "attn", "mlp")
    mode: Mode = "mean"
    layers: Layers = "all"
    max_units: int = 2000
    batch_size: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        check_least("ablation.max_units", self.max_units, 1)
        check_least("ablation.batch_size", self.batch_size, 1)
        choices = (("units", self.units, tuple(HOOKS)), ("mode", (self.mode,), get_args(Mode)))
        for key, names, known in choices:
            for name in names:
                if name not in known:
                    near = did_you_mean(name, known)
                    raise UserError(f"ablation.{key}: no {name!r}{near}; choose from {', '.join(known)}")


class Unit(NamedTuple):
    """A part of the model; ``part`` is the head's or the neuron's, None for a whole attention or MLP."""

    kind: str
    layer: int
    part: int | None

    @property
    def hook(self) -> str:
        """The hook's name."""
        return f"blocks.{self.layer}.{HOOKS[self.kind]}"

    @property
    def name(self) -> str:
        """``a0.h1``, ``a0``, ``m0`` or ``m0.n5``."""
        letter, sub = {"heads": ("a", ".h"), "attn": ("a", ""), "mlp": ("m", ""), "neurons": ("m", ".n")}[self.kind]
        return f"{letter}{self.layer}{sub}{'' if self.part is None else self.part}"

    def edit(self, replacement: Tensor) -> Edit:
        """Replace the part's activation by ``replacement`` (n or 1, T or 1, …)."""
        part = self.part

        def change(activation: Tensor) -> None:
            if part is None:
                activation[:] = replacement
            else:
                activation[:, :, part] = replacement[:, :, part]

        return self.hook, change


def ablate(
    bridge: "TransformerBridge",
    splits: Mapping[str, AnalysisInputs],
    reference: AnalysisInputs,
    settings: AblationSettings | None = None,
    progress: Progress | None = None,
) -> Ablation:
    """Replace each part in turn and score every split again.

    Args:
        bridge: the model.
        splits: inputs by the name of their split.
        reference: rows whose activations give the means and samples (of the distribution that was trained on).
        settings: which parts, and what replaces them.
        progress: called with (parts done over all splits, of how many).

    Raises:
        UserError: a layer does not exist, or there are too many parts.
    """
    settings = settings or AblationSettings()
    units = list_units(bridge, settings)
    hooks = list(dict.fromkeys(unit.hook for unit in units))
    _, source = capture(bridge, reference, hooks)
    rows: list[Importance] = []
    bases: list[Base] = []
    for turn, (split, inputs) in enumerate(splits.items()):
        # Seeded for every split, so that a split's rows do not depend on which others are analysed.
        generator = torch.Generator().manual_seed(settings.seed)
        replacements = {hook: substitute(source[hook], reference, inputs, settings.mode, generator) for hook in hooks}
        edits = [unit.edit(replacements[unit.hook]) for unit in units]
        report = shifted(progress, turn * len(units), len(splits) * len(units))
        before, _ = capture(bridge, inputs, ())
        after = batched_interventions(bridge, inputs, edits, settings.batch_size, report)
        bases.append(Base(split, len(before.correct), **before.means(), majority=inputs.majority()))
        rows += _rows(split, settings.mode, units, before, after)
    return Ablation(tuple(rows), tuple(bases))


def list_units(bridge: "TransformerBridge", settings: AblationSettings) -> list[Unit]:
    """The parts that the settings name, kind by kind.

    Raises:
        UserError: a layer does not exist, or there are too many parts.
    """
    layers, sizes = check_layers(bridge, settings.layers), shape(bridge)
    inside: dict[str, Sequence[int | None]] = {"heads": range(sizes.heads), "attn": (None,), "mlp": (None,)}
    if "neurons" in settings.units:
        inside["neurons"] = range(bridge.cfg.d_mlp)
    units = [Unit(kind, layer, index) for kind in settings.units for layer in layers for index in inside[kind]]
    if len(units) > settings.max_units:
        raise UserError(
            f"ablation of {len(units)} parts is more than ablation.max_units={settings.max_units}; raise it, or name "
            "fewer layers or kinds"
        )
    return units


def _rows(split: str, mode: Mode, units: Sequence[Unit], before: Scores, after: Scores) -> Iterator[Importance]:
    base = before.means()
    for index, unit in enumerate(units):
        ablated = Scores(after.correct[index], after.logprob[index], after.logit_diff[index]).means()
        losses = {name: base[name] - ablated[name] for name in base}
        yield Importance(split, mode, unit.kind, unit.name, unit.layer, unit.part, **losses)


TABLE = Table("ablation.csv", Ablation.load, keep=Ablation.of_splits)


def _run(job: AnalysisJob, folder: Path, progress: Progress | None) -> Metrics:
    """Importance of every part on every split; the reference split gives the means and samples."""
    inputs, reference = job.data.inputs, job.data.reference_split
    result = ablate(job.bridge, inputs, inputs[reference], job.settings_of(AblationSettings), progress)
    result.save(folder)
    metrics = {f"{base.split}/accuracy": base.accuracy for base in result.bases}
    with_reference = [both for both in result.overlaps() if both.first == reference]
    return metrics | {f"{both.second}/jaccard": both.jaccard for both in with_reference}


def _work(job: AnalysisJob) -> int:
    """The unchanged runs, and for each part the layers from its own on."""
    units, layers = list_units(job.bridge, job.settings_of(AblationSettings)), shape(job.bridge).layers
    return round((4 + sum(1 - unit.layer / layers for unit in units)) * sum(map(len, job.data.inputs.values())))


def _draw(models: Models) -> Iterator[Sketch]:
    for ablations in shared(models, TABLE).values():
        yield Sketch("ablation", "What taking each part out costs", partial(draw_ablation, ablations))
        title = "By layer, and whether splits rely on the same parts"
        yield Sketch("ablation_overlap", title, partial(draw_overlaps, ablations))


def weak_splits(results: CircuitResults) -> list[str]:
    """The splits that the model answers hardly better than a constant."""
    ablation = results.one(TABLE)
    return [] if ablation is None else [base.split for base in ablation.bases if base.weak]


def _findings(results: CircuitResults) -> Iterator[str]:
    """For each split, the parts that cost most; then whether splits rely on the same parts as the reference split."""
    ablation = results.one(TABLE)
    assert ablation is not None
    for base in ablation.bases:
        named = name_first(ablation.ranking(base.split))
        weak = " The split is weak: importances are not to be trusted." if base.weak else ""
        yield (
            f"{base.split}: accuracy {number(base.accuracy, 2)}, commonest answer {number(base.majority, 2)}; most "
            f"{base.metric.replace('_', ' ')} is lost without {named}.{weak}"
        )
    for both in ablation.overlaps():
        if both.first == ablation.bases[0].split:
            yield (
                f"{both.first} and {both.second}: {both.shared} of the top {both.k} parts are the same "
                f"(Jaccard {number(both.jaccard, 2)}, by chance {number(both.chance, 2)}; Spearman over all parts "
                f"{number(both.spearman, 2)}){', one of them weak' if both.weak else ''}."
            )


def _warnings(results: CircuitResults) -> Iterator[str]:
    if weak := weak_splits(results):
        yield (
            f"On {', '.join(weak)} the model is less than {MARGIN} better than the commonest answer: what its parts "
            "are worth there says little."
        )


def _low_confidence(folder: Path) -> list[str]:
    path = folder / "jaccard.json"
    return list(map(str, read_record(path).items("weak_splits"))) if path.is_file() else []


def _changes(old: CircuitResults, new: CircuitResults) -> dict[str, Any]:
    """For each split, whether both models rely on the same parts (`Overlap`, the new model first)."""
    before, after = old.one(TABLE), new.one(TABLE)
    if before is None or after is None:
        return {"important_parts": {}}
    splits = [base.split for base in after.bases]
    return {"important_parts": {split: asdict(after.compare(split, before, split)) for split in splits}}


REPLACED = {
    "zero": "says nothing",
    "mean": "says what it says on average, and no more",
    "positional_mean": "says what it says on average at that position, and no more",
    "resample": "says what it says on another row",
}
"""An ablated part in words, by the mode."""

ANALYSIS = Analysis(
    "ablation",
    About(
        "Ablation",
        "What does the model lose when one of its parts {replaced}? a0.h1 is head 1 of layer 0, a0 all heads of the "
        "layer, m0 its MLP.",
        "Bars are losses: the score of the whole model less that of the model without the part. Where the model is "
        "less than 0.1 better than the commonest answer, there is no skill to lose: the split is marked weak, its "
        "parts are ranked by the logit difference, and the ranking is not to be trusted. Jaccard is the share of parts "
        "that are in both top quarters among those in either.",
        lambda settings: {"replaced": REPLACED.get(str(settings.get("mode")), "is taken out")},
    ),
    _run,
    settings={"ablation": AblationSettings},
    meanings={
        "*/accuracy": "share of the answer's tokens that the whole model gets right",
        "*/jaccard": "overlap of the most important parts with those of the reference split",
    },
    check=lambda job: list_units(job.bridge, job.settings_of(AblationSettings)),
    work=_work,
    tables=(TABLE,),
    draw=_draw,
    findings=_findings,
    warnings=_warnings,
    low_confidence=_low_confidence,
    changes=_changes,
    change_findings=lambda changes: say_overlap("parts", changes["important_parts"]),
    order=30,
)
