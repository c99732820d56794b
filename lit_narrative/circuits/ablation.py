"""Ablation: how much worse the model answers when a part of it says what it always says, or nothing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from lit_narrative.circuits.bridge import check_layers, shape
from lit_narrative.circuits.importance import Ablation, Base, Importance
from lit_narrative.circuits.questions import Questions, Scores
from lit_narrative.circuits.sweep import Edit, Progress, capture, sweep
from lit_narrative.errors import UserError, check_least, did_you_mean

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
