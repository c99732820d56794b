"""FVE against its definition, its floor, and its intervals over documents."""

import numpy as np
import pytest
import torch

from lit_narrative.errors import UserError
from lit_narrative.report.intervals import Resamples
from lit_narrative.tasks.verbalize.evaluation.fve import Fidelity, normalise
from tests.paths import GOLDEN

FILE = GOLDEN / "nla.pt"


def alone(count: int) -> list[str]:
    return [str(number) for number in range(count)]


@pytest.mark.golden
def test_fve_and_floor_of_an_earlier_system() -> None:
    if not FILE.is_file():
        pytest.skip(f"no golden values at {FILE.parent}; set LIT_GOLDEN")
    case = torch.load(FILE, weights_only=True)["fve"]
    gold, pred, scale = case["gold"].numpy(), case["pred"].numpy(), case["mse_scale"]
    directions = Fidelity(gold, alone(len(gold)), scale)
    width = gold.shape[1]
    assert directions.variance / width == pytest.approx(float(case["var_raw"]), abs=1e-6)
    assert directions.errors(pred).mean() / width == pytest.approx(float(case["mse_nrm"]), abs=1e-6)
    assert directions.scores("fve", pred)["fve"] == pytest.approx(float(case["fve_nrm"]), abs=1e-6)
    floor = 1 - float(case["base_meannorm"]) / float(case["var_raw"])
    assert directions.constant_floor()["floor_constant"] == pytest.approx(floor, abs=1e-6)
    raw = Fidelity(gold, alone(len(gold)), None).scores("fve", pred)["fve"]
    assert raw == pytest.approx(float(case["fve_raw"]), abs=1e-6)


def test_scale_of_directions_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    gold, pred = rng.normal(size=(2, 30, 8))
    values = [Fidelity(gold, alone(30), scale).scores("fve", pred)["fve"] for scale in (1.0, 8**0.5, 150.0)]
    assert values[0] == pytest.approx(values[1]) == pytest.approx(values[2])


def test_constant_answer_scores_the_floor_and_the_raw_mean_nothing() -> None:
    gold = np.random.default_rng(0).normal(size=(40, 8)) + 1
    directions, raw = Fidelity(gold, alone(40)), Fidelity(gold, alone(40), None)
    constant = np.broadcast_to(normalise(gold, 1.0).mean(0), gold.shape)
    assert directions.scores("fve", constant)["fve"] == pytest.approx(directions.constant_floor()["floor_constant"])
    assert directions.constant_floor()["floor_constant"] < 0
    assert raw.constant_floor()["floor_constant"] == pytest.approx(0)
    other = directions.scores("fve", np.broadcast_to(gold[0], gold.shape))["fve"]
    assert other < directions.constant_floor()["floor_constant"]


@pytest.mark.parametrize("scale", [1.0, None])
def test_no_answer_counts_as_a_vector_at_a_right_angle(scale: float | None) -> None:
    gold = np.eye(4)
    right_angle = np.roll(gold, 1, axis=1)
    fidelity = Fidelity(gold, alone(4), scale)
    nothing = np.full_like(gold, np.nan)
    assert fidelity.errors(nothing) == pytest.approx(fidelity.errors(right_angle))


def test_interval_is_over_documents_and_not_over_rows() -> None:
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(20, 8))
    gold = np.repeat(kinds, 10, axis=0)
    pred = gold + np.repeat(rng.normal(size=(20, 8)), 10, axis=0)
    together = Fidelity(gold, [str(row // 10) for row in range(200)]).scores("fve", pred)
    apart = Fidelity(gold, alone(200)).scores("fve", pred)
    assert together["fve"] == apart["fve"]
    widths = [scores["fve_ci"][1] - scores["fve_ci"][0] for scores in (together, apart)]
    assert widths[0] > 2 * widths[1]
    assert together["fve_ci"][0] < together["fve"] < together["fve_ci"][1]


def test_interval_of_one_document_is_not_known() -> None:
    gold = np.random.default_rng(0).normal(size=(10, 4))
    assert Fidelity(gold, ["one"] * 10).scores("fve", gold)["fve_ci"] is None


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng, hits = np.random.default_rng(1), 0
    for seed in range(200):
        centres = rng.normal(size=40)
        values = np.repeat(centres, 5) + rng.normal(size=200)
        low, high = Resamples([str(row // 5) for row in range(200)], seed=seed).mean("x", values)["x_ci"]
        hits += low < 0 < high
    assert 0.88 < hits / 200 < 0.99


def test_a_ratio_of_nothing_is_not_known() -> None:
    resamples = Resamples(["a", "b"])
    assert resamples.ratio("x", np.zeros(2), np.zeros(2)) == {"x": None, "x_ci": None}


def test_median_is_not_moved_by_one_row_that_went_wrong() -> None:
    gold = np.random.default_rng(0).normal(size=(21, 8))
    pred = gold.copy()
    pred[0] = -gold[0]
    scores = Fidelity(gold, alone(21)).scores("fve", pred)
    assert scores["fve_median"] == pytest.approx(1) and scores["fve"] < 0.9


@pytest.mark.parametrize(("value", "message"), [(np.nan, "NaN"), (1.0, "all 5 target activations are the same")])
def test_targets_that_cannot_be_scored(value: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Fidelity(np.full((5, 3), value), alone(5))


def test_interval_of_few_documents_is_not_moved_to_one_side() -> None:
    rng = np.random.default_rng(0)
    gold = np.repeat(rng.normal(size=(6, 8)), 5, axis=0)
    low, high = Fidelity(gold, [str(row // 5) for row in range(30)]).constant_floor()["floor_constant_ci"]
    assert low < Fidelity(gold, alone(30)).constant_floor()["floor_constant"] < high
