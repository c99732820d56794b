"""The recipe ``style`` of one seed: reinforcement is found more like the authors by a judge that training never saw."""

import json
from pathlib import Path

import pytest

from lit_narrative.cli.main import main
from lit_narrative.tasks.style.report.measures import MAIN
from lit_narrative.tasks.style.report.run import ARMS


@pytest.mark.slow
@pytest.mark.timeout(1800)  # 5 minutes of one free core
def test_style_is_learned_under_a_judge_that_training_never_saw(tmp_path: Path) -> None:
    main(["run", "style", "--seed", "0", "--out", str(tmp_path), "--workers", "1"])
    summary = json.loads((tmp_path / "summary.json").read_text())["seeds"]["0"]
    for arm in ARMS:
        assert all(f"{name}_ci" in summary[arm] for name in MAIN), arm
    assert all(judge["fit"] for judge in summary["judges"].values())
    change = summary["change"]
    assert change["judge_a_ci"][0] > 0
    assert change["judge_b_ci"][0] > 0
    assert summary["alarm"] is False
    assert change["copied_span_ci"][0] <= 0  # no surely longer spans
    assert summary["grpo"]["topic_swap_ci"][0] > 0.9
    # A base model that does not know the authors follows the sample in its prompt, if anything.
    assert summary["base"]["judge_b"] < summary["sft"]["judge_b"] < summary["grpo"]["judge_b"]
