"""Ablation: how much worse the model answers when a part of it says what it always says, or nothing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Self, get_args

import numpy as np
import torch
from torch import Tensor

from lit_narrative.circuits.bridge import check_layers, shape
from lit_narrative.circuits.hooks import Edit, Progress, capture, sweep
from lit_narrative.circuits.inputs import Questions, Scores
from lit_narrative.circuits.tables import read_rows, write_rows
from lit_narrative.errors import UserError, check_least, did_you_mean
from lit_narrative.files import write_json

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


Mode = Literal["zero", "mean", "positional_mean", "resample"]
HOOKS = {"heads": "attn.hook_z", "attn": "hook_attn_out", "mlp": "hook_mlp_out", "neurons": "mlp.hook_post"}
"""Kinds of parts, and where each is taken out."""


@dataclass(frozen=True)
class AblationSettings:
    """What is taken out, and what takes its place.

    Args:
        units: kinds of parts, of ``HOOKS``.
        mode: ``zero``; ``mean`` over the reference rows and their places; ``positional_mean`` over the rows, place by
            place; ``resample``, another reference row's activation at the same place. Places are counted from the end.
        layers: some of them, or all.
        max_units: neurons are many; more parts than this are refused.
        batch_size: rows of one forward pass.
        seed: of the rows that resampling draws.
    """

    units: Sequence[str] = ("heads", "attn", "mlp")
    mode: Mode = "mean"
    layers: Literal["all"] | Sequence[int] = "all"
    max_units: int = 2000
    batch_size: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        check_least("ablation.max_units", self.max_units, 1)
        check_least("ablation.batch_size", self.batch_size, 1)
        asked = (("units", self.units, tuple(HOOKS)), ("mode", (self.mode,), get_args(Mode)))
        for key, names, known in asked:
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

    def edit(self, instead: Tensor) -> Edit:
        """Put ``instead`` (n or 1, T or 1, …) in the part's place."""
        part = self.part

        def change(own: Tensor) -> None:
            if part is None:
                own[:] = instead
            else:
                own[:, :, part] = instead[:, :, part]

        return self.hook, change


Metric = Literal["accuracy", "logprob", "logit_diff"]


@dataclass(frozen=True)
class Importance:
    """What taking one part out costs: the unchanged model's figure less the ablated one's, so more is worse.

    Attributes:
        split: the questions asked.
        mode: what took the part's place.
        kind: heads, attn, mlp or neurons.
        unit: name of the part (``a0.h1``, ``m0`` …).
        layer: its layer.
        index: of the head or neuron.
        accuracy: loss of accuracy over the scored tokens.
        logprob: loss of the right token's log-probability.
        logit_diff: loss of its lead.
    """

    split: str
    mode: str
    kind: str
    unit: str
    layer: int
    index: int | None
    accuracy: float
    logprob: float
    logit_diff: float


@dataclass(frozen=True)
class Base:
    """The unchanged model on a split.

    Attributes:
        split: the questions asked.
        n: scored tokens.
        accuracy: share answered right.
        logprob: mean log-probability of the right token.
        logit_diff: mean lead of the right token.
        majority: what a constant answer would score.
    """

    split: str
    n: int
    accuracy: float
    logprob: float
    logit_diff: float
    majority: float

    @property
    def weak(self) -> bool:
        """Whether the answers are hardly better than a constant one, so that losses of accuracy mean little."""
        return self.accuracy < self.majority + MARGIN

    @property
    def metric(self) -> Metric:
        """The figure to rank parts by: accuracy, or the logit difference on a weak split."""
        return "logit_diff" if self.weak else "accuracy"


@dataclass(frozen=True)
class Overlap:
    """Whether two rankings of N parts choose the same ``k``.

    Attributes:
        first: name of one ranking.
        second: name of the other.
        k: parts in each set.
        shared: parts in both.
        jaccard: shared over the union.
        chance: what two random sets would have on average (hypergeometric).
        p_value: probability that random sets share as many.
        spearman: rank correlation of all N parts' figures; None where one of them is constant.
        weak: whether one of the splits is answered hardly better than by a constant.
    """

    first: str
    second: str
    k: int
    shared: int
    jaccard: float
    chance: float
    p_value: float
    spearman: float | None
    weak: bool


@dataclass(frozen=True)
class Ablation:
    """Importance of every part on every split.

    Attributes:
        rows: one for each split and part.
        bases: the unchanged model, one for each split.
    """

    rows: tuple[Importance, ...]
    bases: tuple[Base, ...]

    def base(self, split: str) -> Base:
        """The unchanged model on a split."""
        return next(base for base in self.bases if base.split == split)

    def ranking(self, split: str, metric: Metric | None = None, kinds: Sequence[str] = ()) -> dict[str, float]:
        """Figures of a split's parts by name, the largest first.

        Args:
            split: name of the split.
            metric: what to rank by; None takes the split's own (`Base.metric`).
            kinds: of parts; empty for all.
        """
        metric = metric or self.base(split).metric
        own = [row for row in self.rows if row.split == split and (not kinds or row.kind in kinds)]
        return {row.unit: getattr(row, metric) for row in sorted(own, key=lambda row: -getattr(row, metric))}

    def layer_profile(self, split: str) -> dict[int, float]:
        """Mean figure of each layer's parts, by the split's own metric."""
        base = self.base(split)
        layers: dict[int, list[float]] = {}
        for row in self.rows:
            if row.split == split:
                layers.setdefault(row.layer, []).append(getattr(row, base.metric))
        return {layer: float(np.mean(values)) for layer, values in sorted(layers.items())}

    def overlaps(self, top_k: float = 0.25, kinds: Sequence[str] = ()) -> tuple[Overlap, ...]:
        """Every two splits compared; both by the logit difference if one of them is weak."""
        made = []
        for place, a in enumerate(self.bases):
            for b in self.bases[place + 1 :]:
                made.append(compare(self, a.split, self, b.split, top_k, kinds))
        return tuple(made)

    def save(self, folder: str | Path) -> Path:
        """Write ablation.csv, ablation_base.csv, and jaccard.json with overlaps and layer profiles."""
        folder = Path(folder)
        write_rows(folder / "ablation.csv", Importance, self.rows)
        write_rows(folder / "ablation_base.csv", Base, self.bases)
        profiles = {base.split: self.layer_profile(base.split) for base in self.bases}
        weak = [base.split for base in self.bases if base.weak]
        overlaps = [asdict(overlap) for overlap in self.overlaps()]
        write_json(folder / "jaccard.json", {"overlaps": overlaps, "layer_profiles": profiles, "weak_splits": weak})
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote."""
        rows = read_rows(Path(folder, "ablation.csv"), Importance)
        return cls(rows, read_rows(Path(folder, "ablation_base.csv"), Base))


def ablate(
    bridge: "TransformerBridge",
    splits: Mapping[str, Questions],
    reference: Questions,
    settings: AblationSettings | None = None,
    progress: Progress | None = None,
) -> Ablation:
    """Take out each part in turn and ask every split again.

    Args:
        bridge: the model.
        splits: questions by the name of their split.
        reference: rows whose activations give the means and samples (of the distribution that was trained on).
        settings: what is taken out.
        progress: called with (parts done over all splits, of how many).

    Raises:
        UserError: A layer does not exist, there are too many parts, or a split is longer than the reference.
    """
    settings = settings or AblationSettings()
    units = list_units(bridge, settings)
    names = list(dict.fromkeys(unit.hook for unit in units))
    _, source = capture(bridge, reference, names)
    rows: list[Importance] = []
    bases: list[Base] = []
    for turn, (split, questions) in enumerate(splits.items()):
        draw = torch.Generator().manual_seed(settings.seed)
        instead = {name: substitute(source[name], reference, questions, settings.mode, draw) for name in names}
        edits = [unit.edit(instead[unit.hook]) for unit in units]
        report = _shifted(progress, turn * len(units), len(splits) * len(units))
        before, _ = capture(bridge, questions, ())
        after = sweep(bridge, questions, edits, settings.batch_size, report)
        bases.append(Base(split, len(before.correct), **before.means(), majority=questions.majority()))
        rows += _rows(split, settings.mode, units, before, after)
    return Ablation(tuple(rows), tuple(bases))


def list_units(bridge: "TransformerBridge", settings: AblationSettings) -> list[Unit]:
    """The parts that the settings name, kind by kind.

    Raises:
        UserError: A layer does not exist, or there are too many parts.
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


def substitute(
    source: Tensor, reference: Questions, questions: Questions, mode: Mode, generator: torch.Generator
) -> Tensor:
    """What takes an activation's place.

    Args:
        source: (r, S, …) activations of the reference rows.
        reference: the reference rows, padded on the left.
        questions: the rows that are asked, (n, T).
        mode: see `AblationSettings`.
        generator: of the rows drawn.

    Returns:
        (1, 1, …), (1, T, …) or (n, T, …). Where no reference row reaches so far from the end, the mean over all places.
    """
    if mode == "zero":
        return torch.zeros_like(source[:1, :1])
    weight = reference.mask.to(source).view(*reference.mask.shape, *[1] * (source.ndim - 2))
    mean = (source * weight).sum((0, 1), keepdim=True) / weight.sum()
    if mode == "mean":
        return mean
    width = questions.tokens.shape[1]
    lacking = max(0, width - source.shape[1])
    filled = torch.where(weight.bool(), source, mean)[:, -width:]
    if mode == "resample":
        rows = torch.randint(len(source), (len(questions),), generator=generator)
        return torch.cat([mean.expand(len(rows), lacking, *mean.shape[2:]), filled[rows]], 1)
    counts = weight.sum(0, keepdim=True)[:, -width:]
    own = (source * weight).sum(0, keepdim=True)[:, -width:] / counts.clamp(min=1)
    return torch.cat([mean.expand(1, lacking, *mean.shape[2:]), torch.where(counts > 0, own, mean)], 1)


def _rows(split: str, mode: Mode, units: Sequence[Unit], before: Scores, after: Scores) -> Iterator[Importance]:
    base = before.means()
    for place, unit in enumerate(units):
        own = Scores(after.correct[place], after.logprob[place], after.logit_diff[place]).means()
        drops = {name: base[name] - own[name] for name in base}
        yield Importance(split, mode, unit.kind, unit.name, unit.layer, unit.part, **drops)


def _shifted(progress: Progress | None, start: int, total: int) -> Progress | None:
    return None if progress is None else lambda done, _: progress(start + done, total)


MARGIN = 0.1
"""A split answered less than this above the majority's share says little about what its answers rest on."""


def compare(
    first: Ablation, split: str, second: Ablation, other: str, top_k: float = 0.25, kinds: Sequence[str] = ()
) -> Overlap:
    """A split of one model against a split of the same or another model (two checkpoints).

    Args:
        first: ablation of one model.
        split: of its splits.
        second: ablation of the other; the same parts were taken out.
        other: of its splits.
        top_k: share of the parts that count as important, at least one part.
        kinds: of parts; empty for all.
    """
    weak = first.base(split).weak or second.base(other).weak
    metric: Metric = "logit_diff" if weak else "accuracy"
    a, b = first.ranking(split, metric, kinds), second.ranking(other, metric, kinds)
    names = (split, other if first is second else f"{other} (2)")
    return overlap(a, b, max(1, round(top_k * len(a))), names, weak)


def overlap(
    a: Mapping[str, float], b: Mapping[str, float], k: int, names: tuple[str, str] = ("a", "b"), weak: bool = False
) -> Overlap:
    """Compare the ``k`` largest figures of two mappings over the same parts.

    Args:
        a: figures by part.
        b: figures by part.
        k: size of each set.
        names: of the two.
        weak: what to note.

    Raises:
        ValueError: The parts differ.
    """
    from scipy.stats import hypergeom, spearmanr

    if a.keys() != b.keys():
        raise ValueError("two rankings can be compared only over the same parts")
    tops = [set(sorted(ranking, key=lambda part: -ranking[part])[:k]) for ranking in (a, b)]
    shared, total = len(tops[0] & tops[1]), len(a)
    random = hypergeom(total, k, k)
    chance = sum(float(random.pmf(i)) * i / (2 * k - i) for i in range(k + 1))
    values = np.array([[ranking[part] for part in a] for ranking in (a, b)])
    constant = bool((np.ptp(values, axis=1) == 0).any())
    rank = None if constant else float(spearmanr(*values).statistic)
    jaccard = shared / (2 * k - shared)
    return Overlap(*names, k, shared, jaccard, chance, float(random.sf(shared - 1)), rank, weak)
