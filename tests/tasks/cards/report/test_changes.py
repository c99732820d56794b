"""Paired changes, and what may be said of them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lit_narrative.report.intervals import share_interval
from lit_narrative.report.run_folder import RunFolder
from lit_narrative.tasks.cards.report.changes import Change, Comparison, compare, direction, paired, verdict
from lit_narrative.tasks.cards.report.run import Answer, CardsRun, Policy, Scores, SeedRun


def answers(marks: str) -> list[Answer]:
    return [Answer("p", "t", "1", "1", mark == "+") for mark in marks]


def change(low: float, high: float, seed: str = "seed 0") -> Change:
    return Change(seed, (low + high) / 2, (low, high))


RISE, FALL, NONE = change(0.1, 0.3), change(-0.3, -0.1, "seed 1"), change(-0.1, 0.1, "seed 2")


def test_change_counts_what_was_won_and_lost() -> None:
    found = paired("seed 0", answers("+-" * 50), answers("++" * 30 + "--" * 20))
    assert found.value == pytest.approx((30 - 20) / 100)
    # Agresti and Min by hand: 30.5 won, 20.5 lost of 102.
    half = 1.959964 * ((51 - 100 / 102) ** 0.5) / 102
    assert found.interval == pytest.approx((10 / 102 - half, 10 / 102 + half))
    back = paired("seed 0", answers("++" * 30 + "--" * 20), answers("+-" * 50))
    assert back.interval == pytest.approx((-found.interval[1], -found.interval[0]))


def test_nothing_changed_is_no_proof_of_no_change() -> None:
    found = paired("seed 0", answers("+" * 100), answers("+" * 100))
    low, high = found.interval
    assert found.value == 0 and low < 0 < high and found.side == 0


def test_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        kinds = rng.choice(4, 150, p=[0.5, 0.1, 0.2, 0.2])  # both right, lost, won, both wrong: the truth is +0.1
        before = answers("".join("+" if kind in {0, 1} else "-" for kind in kinds))
        after = answers("".join("+" if kind in {0, 2} else "-" for kind in kinds))
        low, high = paired("", before, after).interval
        held += low <= 0.1 <= high
    assert 0.92 <= held / 400 <= 0.98


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([RISE, RISE], "rise"),
        ([FALL], "fall"),
        ([NONE, NONE], "none"),
        ([RISE, NONE], "mixed"),
        ([RISE, FALL], "mixed"),
    ],
)
def test_only_what_every_seed_shows_is_claimed(changes: list[Change], said: str) -> None:
    assert direction(changes) == said


def test_verdicts_in_words() -> None:
    def said(*changes: Change, nonzero: tuple[Change, ...] = (), beats: bool = True) -> str:
        return verdict(Comparison("id_test", changes, nonzero, beats))

    assert said(RISE) == "rose"
    assert said(RISE, RISE) == "rose on every seed"
    assert said(FALL, FALL) == "fell on every seed"
    assert said(NONE) == "no change beyond chance"
    assert said(NONE, NONE) == "no change beyond chance on any seed"
    assert said(RISE, FALL, NONE) == "mixed (rose on seed 0; fell on seed 1; no change beyond chance on seed 2)"


def test_a_rise_by_answering_0_is_said_to_be_one() -> None:
    drift = Comparison("compositional", (RISE, RISE), (RISE, NONE), beats_majority=False)
    assert verdict(drift) == (
        "rose on every seed, but not shown where the right answer is other than 0 and not shown to beat one constant "
        "answer on every seed"
    )


def examined(name: str, right: Callable[[str], bool]) -> Policy:
    """A policy tested on forty prompts whose answer is 0 and sixty whose answer is 5."""
    answers = tuple(Answer("p", "t", "0", expected, right(expected)) for expected in ["0"] * 40 + ["5"] * 60)
    n, correct = len(answers), sum(answer.correct for answer in answers)
    low, high = share_interval(correct / n, n)
    scores = Scores(n, correct / n, (low, high), 0.6, None, 1.0, None, None, 1.0, None, {})
    return Policy(name, Path("x"), {"compositional": scores}, {"compositional": answers}, {"id": 1.0}, (), None)


def test_a_policy_that_always_answers_0_is_found_out() -> None:
    policies = {"sft": examined("sft", lambda _: False), "drift": examined("drift", lambda expected: expected == "0")}
    run = CardsRun(RunFolder(Path("x")), (SeedRun("seed 0", policies, ()),))
    (found,) = compare(run, "drift")
    assert (found.split, found.mean, found.range) == ("compositional", 0.4, (0.4, 0.4))
    assert [change.value for change in found.nonzero] == [0.0]
    assert verdict(found) == (
        "rose, but not shown where the right answer is other than 0 and not shown to beat one constant answer"
    )
