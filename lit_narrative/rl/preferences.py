"""Learning from preferences: rows made of scored completions, losses as pure functions, and their metrics.

Notation: n pairs, or n completions by themselves. The *log-ratio* of a completion y is log pi(y | x) - log pi_ref(y |
x), nats, summed over its tokens; its *reward* is beta times that (Rafailov et al. 2023, eq. 5).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, get_args

import torch
from torch.nn.functional import logsigmoid

from lit_narrative.errors import UserError, check_choice
from lit_narrative.views import Example, Scored

PreferenceLoss = Literal["sigmoid", "sigmoid_norm", "ipo", "kto"]


@dataclass(frozen=True)
class PreferenceSettings:
    """The loss of preference learning, by TRL's names.

    Args:
        loss_type: of pairs: ``sigmoid`` (DPO, Rafailov et al. 2023, eq. 7), ``sigmoid_norm`` (the same of log-ratios a
            token), ``ipo`` (Azar et al. 2023, eq. 17, a token); of completions by themselves ``kto`` (Ethayarajh et al.
            2024, eq. 7).
        beta: how dear it is to leave the reference, above 0.
        label_smoothing: of ``sigmoid``: share of the pairs that are supposed to be the wrong way round, below 0.5
            (Chowdhury et al. 2024, eq. 12; TRL's ``robust``).
        desirable_weight: of ``kto``: weight of completions that are desirable.
        undesirable_weight: of ``kto``: weight of the others.

    Raises:
        UserError: a number is out of range, or one would be ignored.
    """

    loss_type: PreferenceLoss = "sigmoid"
    beta: float = 0.1
    label_smoothing: float = 0.0
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0

    def __post_init__(self) -> None:
        check_choice("model.loss.loss_type", self.loss_type, get_args(PreferenceLoss))
        if not 0 < self.beta < math.inf:
            raise UserError(f"model.loss.beta={self.beta} must be a number above 0")
        if not 0 <= self.label_smoothing < 0.5:
            raise UserError(f"model.loss.label_smoothing={self.label_smoothing} must be in 0..0.5, without 0.5")
        if self.label_smoothing and self.loss_type != "sigmoid":
            raise UserError(f"model.loss.label_smoothing is of loss_type sigmoid, and this is {self.loss_type}")
        for name in ("desirable_weight", "undesirable_weight"):
            weight = getattr(self, name)
            if not 0 <= weight < math.inf:
                raise UserError(f"model.loss.{name}={weight} must be a number of 0 or more")
            if weight != 1 and self.paired:
                raise UserError(f"model.loss.{name} is of loss_type kto, and this is {self.loss_type}")

    @property
    def paired(self) -> bool:
        """Whether pairs are compared, and not completions by themselves."""
        return self.loss_type != "kto"


# --- rows -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PreferenceRow:
    """A completion and the one that stands beside it.

    Attributes:
        example: the preferred completion of a pair; or any one.
        beside: the other one of the pair; or the completion of another prompt, by which the divergence from the
            reference is estimated.
        desirable: whether ``example`` is to become likelier; of a pair always.
    """

    example: Example
    beside: Example
    desirable: bool = True

    @property
    def examples(self) -> tuple[Example, Example]:
        """Both."""
        return self.example, self.beside


def paired_rows(rows: Sequence[Scored], per_prompt: int) -> list[PreferenceRow]:
    """Pairs: those that are given as such, and of each prompt the completions whose scores differ most.

    Args:
        rows: the ``scored`` view.
        per_prompt: how many of each prompt at most, those with the greatest difference first, 1 or more.

    Raises:
        UserError: there are none.
    """
    made = [
        PreferenceRow(_example(row), _example(row, row.other))
        for row in rows
        if row.other is not None and row.other != row.text
    ]
    for group in _by_prompt(rows):
        ordered = sorted(group, key=lambda row: -row.score)
        apart = [(best, worst) for best, worst in combinations(ordered, 2) if best.score > worst.score]
        # The sort is stable, so that the same rows make the same pairs.
        apart.sort(key=lambda pair: pair[1].score - pair[0].score)
        made += [PreferenceRow(_example(best), _example(worst)) for best, worst in apart[:per_prompt]]
    if not made:
        raise UserError(
            f"the view 'scored' has {len(rows)} rows, and no two completions of one prompt with different scores to "
            "compare; sample several of each prompt (SteeringModule with method none and samples above 1), give pairs, "
            "or take model.loss.loss_type=kto with model.threshold"
        )
    return made


def unpaired_rows(rows: Sequence[Scored], threshold: float | None) -> list[PreferenceRow]:
    """Completions by themselves, each beside the next one that belongs to another prompt.

    Args:
        rows: the ``scored`` view; a pair becomes a desirable completion and another one.
        threshold: the score from which on a completion is desirable; None: above the mean of its prompt's.

    Raises:
        UserError: all are desirable, or none is; or there is no threshold, and each prompt has one score.
    """
    marked = [
        (_example(row, text), wanted)
        for row in rows
        if row.other is not None
        for text, wanted in ((row.text, True), (row.other, False))
    ]
    for group in _by_prompt(rows):
        mean = math.fsum(row.score for row in group) / len(group)
        if threshold is None and len({row.score for row in group}) < 2:
            continue  # nothing says whether it is good
        least = mean if threshold is None else threshold
        marked += [(_example(row), row.score > least if threshold is None else row.score >= least) for row in group]
    if len({wanted for _, wanted in marked}) < 2:
        raise UserError(
            f"loss_type kto needs desirable and undesirable completions, and of the {len(rows)} rows of the view "
            f"'scored' {'none is rated' if not marked else 'all are of one kind'} with model.threshold={threshold}; "
            "set it between the scores that they have"
        )
    return [PreferenceRow(example, _other(marked, number), wanted) for number, (example, wanted) in enumerate(marked)]


def _other(marked: Sequence[tuple[Example, bool]], number: int) -> Example:
    """The prompt of a row with the completion of the next row of another prompt; of the next row, if there is none."""
    own = marked[number][0]
    later = (marked[(number + step) % len(marked)][0] for step in range(1, len(marked)))
    found = next((one for one in later if one.prompt != own.prompt), marked[(number + 1) % len(marked)][0])
    return Example(own.prompt, found.completion)


def _example(row: Scored, text: str | None = None) -> Example:
    return Example(row.prompt or "", row.text if text is None else text)


def _by_prompt(rows: Sequence[Scored]) -> list[list[Scored]]:
    """The rated completions of each prompt, in order of the prompts."""
    groups: dict[str, list[Scored]] = {}
    for row in rows:
        if row.other is None:
            prompt = row.prompt if row.prompt is None or isinstance(row.prompt, str) else [*map(dict, row.prompt)]
            groups.setdefault(repr(prompt), []).append(row)
    return list(groups.values())


# --- losses -----------------------------------------------------------------------------------------------------------


def pair_losses(
    chosen: torch.Tensor, rejected: torch.Tensor, lengths: torch.Tensor, settings: PreferenceSettings
) -> torch.Tensor:
    """The loss of each pair, (n,), with gradient.

    With h = log-ratio of the chosen one minus that of the rejected one: l(h) = -log sigmoid(beta h) (DPO); with label
    smoothing e, ((1 - e) l(h) - e l(-h)) / (1 - 2 e); (h - 1 / (2 beta))^2 (IPO).

    Args:
        chosen: (n,) log-ratios.
        rejected: (n,) log-ratios.
        lengths: (2, n) tokens of the completions, by which ``sigmoid_norm`` and ``ipo`` divide the log-ratios.
        settings: which loss.
    """
    if settings.loss_type in ("sigmoid_norm", "ipo"):
        chosen, rejected = chosen / lengths[0], rejected / lengths[1]
    difference = chosen - rejected
    if settings.loss_type == "ipo":
        return (difference - 1 / (2 * settings.beta)) ** 2
    losses, noise = -logsigmoid(settings.beta * difference), settings.label_smoothing
    if noise:
        losses = ((1 - noise) * losses + noise * logsigmoid(-settings.beta * difference)) / (1 - 2 * noise)
    return losses


def unpaired_losses(
    log_ratios: torch.Tensor, desirable: torch.Tensor, divergence: torch.Tensor, settings: PreferenceSettings
) -> torch.Tensor:
    """The loss of each completion, (n,), with gradient (KTO).

    weight x (1 - sigmoid(beta (log-ratio - divergence))) of a desirable one, with the sign turned of another one.

    Args:
        log_ratios: (n,).
        desirable: (n,) bool.
        divergence: scalar of 0 or more, nats, from the reference; no gradient flows.
        settings: weights and beta.
    """
    signs = torch.where(desirable, 1.0, -1.0)
    weights = torch.where(desirable, settings.desirable_weight, settings.undesirable_weight)
    return weights * torch.sigmoid(-settings.beta * signs * (log_ratios - divergence.detach()))


# --- metrics ----------------------------------------------------------------------------------------------------------


def preference_sums(
    losses: torch.Tensor | None,
    logprobs: torch.Tensor,
    log_ratios: torch.Tensor | None,
    desirable: torch.Tensor,
    divergence: torch.Tensor | None,
    beta: float,
) -> dict[str, torch.Tensor]:
    """Sums of some rows from which `preference_metrics` makes means.

    Args:
        losses: (n,), n pairs or completions; None where there is no reference.
        logprobs: (m,) of all completions under the policy; of pairs the chosen ones first.
        log_ratios: (m,), likewise; None where there is no reference.
        desirable: (m,) bool.
        divergence: of ``kto``, which compares no pairs; None of pairs.
        beta: that makes rewards of log-ratios.
    """
    good, bad = desirable.float(), (~desirable).float()
    sums = {"chosen": good.sum(), "rejected": bad.sum()}
    sums |= {"logps/chosen": (logprobs * good).sum(), "logps/rejected": (logprobs * bad).sum()}
    if divergence is None:
        chosen, rejected = logprobs.chunk(2)
        sums["logps/accuracies"] = (chosen > rejected).float().sum()
    if losses is None or log_ratios is None:
        return sums
    rewards = beta * log_ratios
    if divergence is None:
        chosen, rejected = rewards.chunk(2)
        right = chosen > rejected
    else:
        right = (log_ratios > divergence) == desirable
        sums["kl"] = divergence * len(losses)
    sums |= {"rewards/chosen": (rewards * good).sum(), "rewards/rejected": (rewards * bad).sum()}
    return sums | {"loss": losses.sum(), "rewards/accuracies": right.float().sum()}


def preference_metrics(sums: Mapping[str, float], paired: bool) -> dict[str, float]:
    """Means, by TRL's names: of the loss, of log-probabilities and rewards of both kinds, and of what is right.

    ``rewards/accuracies`` is the share of pairs whose chosen completion has the greater reward; with ``kto`` the share
    of completions whose log-ratio is on their side of the divergence. ``logps/accuracies`` is the share of pairs whose
    chosen completion is the likelier one, whatever the reference says. A mean of nothing is NaN.

    Args:
        sums: of `preference_sums`, over all rows.
        paired: whether they are of pairs.
    """
    kinds = {"chosen": sums["chosen"], "rejected": sums["rejected"]}
    rows = sums["chosen"] if paired else sum(kinds.values())
    counts = {name: kinds.get(name.rpartition("/")[2], rows) for name in sums if name not in kinds}
    metrics = {name: sums[name] / count if count else math.nan for name, count in counts.items()}
    if "rewards/chosen" in metrics:
        metrics["rewards/margins"] = metrics["rewards/chosen"] - metrics["rewards/rejected"]
    return metrics
