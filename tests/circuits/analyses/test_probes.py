"""Probes read what is there, controls stay at chance, and transfer is judged on rows not fitted."""

from pathlib import Path

import numpy as np
import pytest

from lit_narrative.circuits.analyses.probes import Where, fit_probes, gather
from lit_narrative.circuits.bridge import build_bridge
from lit_narrative.circuits.inputs import AnalysisInputs, Positions
from lit_narrative.circuits.linear_probe import ProbeSettings, class_scores, number_scores
from lit_narrative.circuits.records.probes import Probes
from lit_narrative.errors import UserError
from tests.circuits.planted import LETTERS, planted_inputs, planted_lm, prompts

HERE = Where("resid_post", 0, "answer")


def test_the_planted_letter_is_readable_only_after_it_was_copied() -> None:
    bridge = build_bridge(planted_lm(noise=0.0))  # noise would carry a trace of the letter everywhere
    splits = {"id": planted_inputs(400, 1), "ood": planted_inputs(100, 2)}
    targets = {"id": {"letter": prompts(400, 1)[2].numpy()}, "ood": {"letter": prompts(100, 2)[2].numpy()}}
    settings = ProbeSettings(places=("marked", "answer"), controls=2)
    features = {name: gather(bridge, inputs, settings) for name, inputs in splits.items()}
    result = fit_probes(features, targets, "id", settings)
    chance = 1 / LETTERS
    assert len(result.rows) == 2 * 2 * 2 * 2
    for row in result.rows:
        assert row.control == pytest.approx(chance, abs=0.13)
        assert row.majority == pytest.approx(chance, abs=0.13)
        if row.place == "marked" or (row.layer, row.site) == (1, "resid_post"):
            assert row.accuracy == 1.0
            assert row.selectivity is not None and row.selectivity > 0.7
        else:
            assert row.accuracy == pytest.approx(chance, abs=0.13)
    best = result.of("letter", "ood")[0]
    assert best.n == 100


def test_features_are_the_activations_at_each_rows_own_place() -> None:
    inputs = planted_inputs(5)
    result = gather(build_bridge(planted_lm(0.0)), inputs, ProbeSettings(("resid_pre",), [0], ("marked",)))
    letters = prompts(5, 1)[2].numpy()
    vectors = result[Where("resid_pre", 0, "marked")]
    assert vectors.shape == (5, 32)
    assert vectors[:, :LETTERS].argmax(1).tolist() == letters.tolist()


def numbers(rows: int, seed: int, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 6)) * [1, 1, 1, 1, 1, 100] + offset
    return x.astype(np.float32), x[:, 0] + x[:, 1] + 0.1 * rng.normal(size=rows)


def test_numbers_are_read_and_their_failure_elsewhere_is_told_raw_and_clipped() -> None:
    x, y = numbers(200, 0)
    shifted, same = numbers(50, 1, offset=9.0)
    features = {"id": {HERE: x}, "ood": {HERE: shifted}}
    result = fit_probes(features, {"id": {"sum": y}, "ood": {"sum": -same}}, "id")
    here, there = result.rows
    assert (here.split, here.n, here.kind) == ("id_heldout", 50, "number")
    assert here.r2 is not None and here.r2 > 0.97
    assert here.pearson is not None and here.pearson > 0.98
    assert here.control is not None and here.control < 0.1
    assert there.score == 0.0
    assert there.r2 is not None and there.r2 < -5
    assert there.pearson == pytest.approx(-1, abs=0.02)
    assert there.mae is not None and there.mae > 10


def test_saved_weights_are_the_probe(tmp_path: Path) -> None:
    x, y = numbers(100, 0)
    targets = {"id": {"sum": y, "sign": y > 0, "side": np.where(x[:, 0] > 0, "left", "right")}}
    result = fit_probes({"id": {HERE: x}}, targets, "id", ProbeSettings(controls=0))
    assert [row.control for row in result.rows] == [None, None, None]
    read = Probes.load(result.save(tmp_path))
    assert read.rows == result.rows
    name = "sum.resid_post.0.answer"
    mean, scale, coef, intercept = (read.weights[f"{name}.{part}"] for part in ("mean", "scale", "coef", "intercept"))
    predicted = (x - mean) / scale @ coef.reshape(-1) + intercept
    assert np.corrcoef(predicted, y)[0, 1] > 0.98
    assert np.abs(predicted - y).mean() < 0.2


def test_rows_without_an_answer_are_left_out_and_constant_targets_skipped() -> None:
    x, y = numbers(40, 0)
    y[:10] = np.nan
    names = np.array(["a", "b"] * 15 + [""] * 10)
    targets = {"id": {"sum": y, "name": names, "same": np.zeros(40), "only": np.array(["a"] * 40)}}
    result = fit_probes({"id": {HERE: x}}, targets, "id")
    assert {row.target: row.n for row in result.rows} == {"sum": 8, "name": 8}
    assert result.skipped == ("same.resid_post.0.answer", "only.resid_post.0.answer")


def test_figures() -> None:
    right, predicted = np.array(["a", "a", "a", "b"]), np.array(["a", "a", "c", "a"])
    made = class_scores(right, predicted)
    assert (made["accuracy"], made["balanced_accuracy"], made["majority"]) == (0.5, pytest.approx(1 / 3), 0.75)
    made = number_scores(np.array([1.0, 3.0]), np.array([2.0, 2.0]))
    assert (made["r2"], made["mae"], made["pearson"]) == (0.0, 1.0, None)
    assert number_scores(np.array([1.0, 1.0]), np.array([2.0, 1.0]))["r2"] is None


def test_bad_settings_are_named() -> None:
    with pytest.raises(UserError, match=r"probes\.sites: no 'resid_pots'; did you mean 'resid_post'"):
        ProbeSettings(sites=("resid_pots",))
    with pytest.raises(UserError, match=r"probes\.test_size is 1"):
        ProbeSettings(test_size=1)
    with pytest.raises(UserError, match="no split 'idd' to fit on; there are: id"):
        fit_probes({"id": {}}, {"id": {}}, "idd")
    bridge, asked = build_bridge(planted_lm()), planted_inputs(3)
    with pytest.raises(UserError, match="no position is named 'card1'; the rows have: marked, answer"):
        gather(bridge, asked, ProbeSettings(places=("card1",)))
    with pytest.raises(UserError, match="no named positions"):
        gather(bridge, AnalysisInputs(asked.tokens, asked.mask, asked.targets))
    assert isinstance(asked.positions, Positions)
