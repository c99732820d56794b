"""Preference learning: rows made of scored completions, and losses equal to TRL's.

The numbers of TRL 1.16.0 are what ``_compute_loss`` of its `DPOTrainer` and `KTOTrainer` gave with models that return
the log-probabilities below; ``tests/modules/test_preference_trl.py`` asks the installed one again.
"""

import math
from typing import Any

import pytest
import torch

from lit_narrative.errors import UserError
from lit_narrative.rl.preferences import (
    PreferenceSettings,
    pair_losses,
    paired_rows,
    preference_metrics,
    preference_sums,
    unpaired_losses,
    unpaired_rows,
)
from lit_narrative.views import Example, Scored

BETA = 0.5
POLICY = [[-1.0, -0.5, -2.0], [-0.2, -1.5], [-2.5], [-0.3, -0.9, -1.1]]
"""Of the tokens of two chosen completions, then of two rejected ones."""
REFERENCE = [[-1.3, -0.4, -2.5], [-0.6, -1.1], [-2.0], [-0.7, -0.4, -1.6]]
BESIDE = [[-3.0, -1.0], [-0.5, -2.0, -1.0], [-1.0, -1.5, -0.5], [-2.0]]
BESIDE_REFERENCE = [[-3.5, -1.0], [-0.9, -2.0, -1.1], [-1.0, -1.2, -0.5], [-2.6]]
DESIRABLE = torch.tensor([True, True, False, False])
TRL = {
    "sigmoid": ({}, 0.6178134083747864),
    "sigmoid_norm": ({}, 0.6267810463905334),
    "ipo": ({}, 0.6777777671813965),
    "robust": ({"loss_type": "sigmoid", "label_smoothing": 0.2}, 0.5511467456817627),
}
TRL_KTO, TRL_KL = 0.5888319611549377, 0.32499998807907104
REWARDS = {"rewards/chosen": 0.175, "rewards/rejected": -0.025, "rewards/margins": 0.2, "rewards/accuracies": 0.5}


def sums(rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor([math.fsum(row) for row in rows])


LOG_RATIOS = sums(POLICY) - sums(REFERENCE)
DIVERGENCE = (sums(BESIDE) - sums(BESIDE_REFERENCE)).mean()


@pytest.mark.parametrize("name", TRL)
def test_losses_of_pairs_are_trl_s(name: str) -> None:
    given, expected = TRL[name]
    settings = PreferenceSettings(**{"loss_type": name, "beta": BETA, **given})  # type: ignore[arg-type]
    lengths = torch.tensor([[3, 2], [1, 3]])
    losses = pair_losses(*LOG_RATIOS.chunk(2), lengths, settings)  # type: ignore[misc]
    assert float(losses.mean()) == pytest.approx(expected, abs=1e-6)
    found = preference_sums(losses, sums(POLICY), LOG_RATIOS, DESIRABLE, None, BETA)
    metrics = preference_metrics({key: float(value) for key, value in found.items()}, paired=True)
    assert metrics["loss"] == pytest.approx(expected, abs=1e-6)
    assert {key: metrics[key] for key in REWARDS} == pytest.approx(REWARDS, abs=1e-6)
    assert metrics["logps/accuracies"] == 0.5


def test_the_loss_of_completions_by_themselves_is_trl_s() -> None:
    assert float(DIVERGENCE) == pytest.approx(TRL_KL, abs=1e-6)
    settings = PreferenceSettings("kto", BETA, undesirable_weight=1.5)
    losses = unpaired_losses(LOG_RATIOS, DESIRABLE, DIVERGENCE, settings)
    assert float(losses.mean()) == pytest.approx(TRL_KTO, abs=1e-6)
    found = preference_sums(losses, sums(POLICY), LOG_RATIOS, DESIRABLE, DIVERGENCE, BETA)
    metrics = preference_metrics({key: float(value) for key, value in found.items()}, paired=False)
    assert metrics["loss"] == pytest.approx(TRL_KTO, abs=1e-6)
    assert metrics["kl"] == pytest.approx(TRL_KL, abs=1e-6)
    # Log-ratios 0.7, 0.0, -0.5 and 0.4, against a divergence of 0.325: the first and the third are on their side.
    assert metrics["rewards/accuracies"] == 0.5
    assert metrics["logps/chosen"] == pytest.approx(-2.6) and metrics["logps/rejected"] == pytest.approx(-2.4)


def test_a_mean_of_nothing_is_not_a_number() -> None:
    settings, only = PreferenceSettings("kto", BETA), torch.tensor([True])
    losses = unpaired_losses(LOG_RATIOS[:1], only, DIVERGENCE, settings)
    found = preference_sums(losses, sums(POLICY)[:1], LOG_RATIOS[:1], only, DIVERGENCE, BETA)
    metrics = preference_metrics({key: float(value) for key, value in found.items()}, paired=False)
    assert math.isnan(metrics["rewards/rejected"]) and not math.isnan(metrics["rewards/chosen"])


ROWS = [
    Scored("good", 0.9, prompt="A"),
    Scored("bad", 0.1, prompt="A"),
    Scored("fair", 0.5, prompt="A"),
    Scored("same", 0.5, prompt="B"),
    Scored("alike", 0.5, prompt="B"),
    Scored("yes", 1.0, "no", [{"role": "user", "content": "C"}]),
    Scored("only", 0.3, prompt="D"),
]


def test_the_completions_of_a_prompt_that_differ_most_are_paired() -> None:
    def pairs(per_prompt: int) -> list[tuple[str, str]]:
        return [(row.example.completion, row.beside.completion) for row in paired_rows(ROWS, per_prompt)]

    assert pairs(1) == [("yes", "no"), ("good", "bad")]
    assert pairs(9) == [("yes", "no"), ("good", "bad"), ("good", "fair"), ("fair", "bad")]
    assert paired_rows(ROWS, 1)[0].example.prompt == [{"role": "user", "content": "C"}]
    with pytest.raises(UserError, match=r"3 rows, and no two completions of one prompt.*samples above 1.*threshold"):
        paired_rows(ROWS[3:5] + ROWS[6:], 1)


def test_completions_are_desirable_above_their_prompt_s_mean_or_a_threshold() -> None:
    def marked(threshold: float | None) -> dict[str, bool]:
        return {row.example.completion: row.desirable for row in unpaired_rows(ROWS, threshold)}

    assert marked(None) == {"yes": True, "no": False, "good": True, "bad": False, "fair": False}
    with_threshold = marked(0.5)
    assert with_threshold == {"yes": True, "no": False, "good": True, "bad": False, "fair": True, "same": True,
                              "alike": True, "only": False}  # fmt: skip
    with pytest.raises(UserError, match=r"none is rated with model\.threshold=None"):
        unpaired_rows(ROWS[3:5], None)
    with pytest.raises(UserError, match=r"all are of one kind with model\.threshold=0"):
        unpaired_rows(ROWS[:3], 0)


def test_the_divergence_is_measured_on_completions_of_other_prompts() -> None:
    for row in unpaired_rows(ROWS, 0.5):
        assert row.beside.prompt == row.example.prompt
    found = {(row.beside.prompt, row.beside.completion) for row in unpaired_rows(ROWS[:5], 0.5)}
    assert found == {("A", "same"), ("B", "good")}
    assert unpaired_rows(ROWS[:2], 0.5)[0].beside == Example("A", "bad")  # there is no other prompt


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss_type": "dpo"}, "there is no 'dpo'"),
        ({"beta": 0.0}, "beta=0.0 must be a number above 0"),
        ({"label_smoothing": 0.5}, "label_smoothing=0.5"),
        ({"label_smoothing": 0.1, "loss_type": "ipo"}, "of loss_type sigmoid, and this is ipo"),
        ({"desirable_weight": -1.0, "loss_type": "kto"}, "desirable_weight=-1.0"),
        ({"undesirable_weight": 2.0}, "of loss_type kto, and this is sigmoid"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PreferenceSettings(**settings)
