"""The answer of an ablation by its intervals, from runs that are there, failed or missing."""

import json
from pathlib import Path
from typing import Any

import pytest

from lit_narrative.cli.commands.sweep import write_tables
from lit_narrative.cli.recipes.ablation import HELPS, NO_HELP, UNKNOWN
from lit_narrative.cli.recipes.sweep import Sweep, read_sweep
from lit_narrative.errors import UserError
from tests.cli.recipes.make_sweep import leave_failure, leave_results, write_sweep

ARMS = ("none", "ours", "shuffled")


def asked(folder: Path, **changes: Any) -> Path:
    questions = [{"about": "the <b>cycle</b>", "ours": "ours", "controls": ["shuffled"]}]
    ablation = {"axis": "arm", "without": "none", "margins": {"score": 0.1, "shapes": 5}, "questions": questions}
    return write_sweep(
        folder,
        axes={"arm": {arm: {"model.init_args.lr": number / 10} for number, arm in enumerate(ARMS)}},
        seeds=[0, 1, 2],
        baseline=None,
        metrics={"score": "verifiers", "shapes": "effective_shapes"},
        ablation={**ablation, **changes},
    )


def filled(folder: Path, gains: dict[str, list[float]]) -> Sweep:
    sweep = read_sweep(str(asked(folder)))
    for run in sweep.runs:
        assert run.seed is not None
        gain = gains[run.values["arm"][0]]
        if run.seed < len(gain):
            shift = 0.1 * run.seed + gain[run.seed]
            leave_results(sweep, run, [shift + part for part in (0.1, 0.2, 0.3, 0.4)], effective_shapes=50 + run.seed)
    return sweep


@pytest.mark.parametrize(
    ("ours", "expected", "words"),
    [
        ([0.2, 0.21, 0.19], HELPS, "The <b>cycle</b> helps: against none, score +0.200"),
        ([0.01, 0.0, -0.01], NO_HELP, "The <b>cycle</b> does not help"),
        ([-0.2, -0.21, -0.19], NO_HELP, "The <b>cycle</b> does not help"),
        ([0.3, -0.1, 0.1], UNKNOWN, "Whether the <b>cycle</b> helps cannot be told"),
        ([0.2], UNKNOWN, "Whether the <b>cycle</b> helps cannot be told"),
    ],
)
def test_the_answer_is_by_the_interval_over_seeds(
    ours: list[float], expected: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = filled(tmp_path, {"none": [0, 0, 0], "ours": ours, "shuffled": [0.001, 0, 0]})
    write_tables(sweep)
    (question,) = json.loads((sweep.out / "ablation.json").read_text())["questions"]
    assert question["answers"]["score"] == expected
    assert question["answers"]["shapes"] == (NO_HELP if len(ours) > 1 else UNKNOWN)
    assert question["sentence"].startswith(words)
    assert question["sentence"] in capsys.readouterr().out
    change = question["arms"]["ours"]["minus_without"]["score"]
    assert change["mean"] == pytest.approx(sum(ours) / len(ours))
    assert change["count"] == len(ours)
    # The other way round it is the same figure, and nothing is compared with itself.
    assert question["arms"]["none"]["minus_ours"]["score"]["mean"] == pytest.approx(-change["mean"])
    assert question["arms"]["ours"]["minus_ours"]["score"] is None
    assert ("1 of 1 controls in score (shuffled)" in question["sentence"]) == (expected == HELPS)
    # Shapes are no mean over prompts: they have an interval over seeds alone.
    if len(ours) > 1:
        assert change["prompts"] is not None
        assert question["arms"]["ours"]["minus_without"]["shapes"]["prompts"] is None
    page = (sweep.out / "ablation.html").read_text()
    assert "&lt;b&gt;cycle" in page
    assert "<b>cycle" not in page


def test_an_arm_that_failed_is_counted_and_the_rest_is_compared(tmp_path: Path) -> None:
    sweep = filled(tmp_path, {"none": [0, 0, 0], "ours": [0.2, 0.21, 0.19], "shuffled": []})
    for run in sweep.runs:
        if run.values["arm"] == ("shuffled",):
            leave_failure(sweep, run, "error: no such layer")
    write_tables(sweep)
    (question,) = json.loads((sweep.out / "ablation.json").read_text())["questions"]
    assert question["answers"]["score"] == HELPS
    assert question["arms"]["shuffled"]["runs"] == {"done": 0, "of": 3}
    assert question["arms"]["shuffled"]["mean"]["score"] is None
    assert "controls" not in question["sentence"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axis": "arms"}, "ablation.axis.*did you mean 'arm'"),
        ({"without": "non"}, "arms of arm.*did you mean 'none'"),
        ({"margins": {"scor": 0.1}}, "ablation.margins.*did you mean 'score'"),
        ({"margins": {"score": 0}}, "ablation.margins.score"),
        ({"questions": [{"about": "x"}]}, "'ours'"),
    ],
)
def test_a_wrong_ablation_is_one_clear_error(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as raised:
        read_sweep(str(asked(tmp_path, **changes)))
    assert len(str(raised.value).splitlines()) == 1
