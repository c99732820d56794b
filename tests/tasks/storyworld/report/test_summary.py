import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from lit_narrative.files import write_json
from lit_narrative.report.intervals import share_interval
from lit_narrative.tasks.storyworld.report.outcome import verdict
from lit_narrative.tasks.storyworld.report.reader import read_run
from lit_narrative.tasks.storyworld.report.run import Run
from lit_narrative.tasks.storyworld.report.seeds import measures
from lit_narrative.tasks.storyworld.report.summary import difference_interval, learned, summarise
from tests.tasks.storyworld.report.make_run import CORPUS, FINAL, SFT, SOUND, STAGES, make_run, soundness, total


def test_the_figures_are_those_of_the_tests(run: Run) -> None:
    summary = summarise(run)
    assert summary["mode"] == "strict" and summary["prompts"] == "held-out"
    for name, means in (("sft", SFT), ("final", FINAL)):
        figures = summary[name]
        assert figures["reward"] == pytest.approx(total(means)) and figures["components"] == means
        assert figures["valid_json"] == means["valid_json"] and figures["unique"] == 1
        assert figures["reward_ci"] == pytest.approx([total(means) - 0.031, total(means) + 0.031])
        assert figures["valid_json_ci"][0] < means["valid_json"] < figures["valid_json_ci"][1]
    assert summary["corpus"]["reward"] == pytest.approx(total(CORPUS))


def test_each_side_says_how_many_worlds_are_sound_and_how_various_they_are(run: Run) -> None:
    summary = summarise(run)
    for side, funnel in SOUND.items():
        figures = summary[side]
        assert figures["sound"] == funnel[-1] and figures["playable"] == funnel[2]
        assert list(figures["funnel"].items()) == list(zip(STAGES, funnel, strict=True))
        for name in ("sound", "playable"):
            assert figures[f"{name}_ci"] == pytest.approx(list(share_interval(figures[name], 256)))
            assert 0 < figures[f"{name}_ci"][0] < figures[name] < figures[f"{name}_ci"][1] < 1
        assert (figures["effective_shapes"], figures["encounters"], figures["adherence"]) == (61.5, 4.4, 0.9)


def test_a_run_of_an_earlier_release_has_no_soundness(tmp_path: Path) -> None:
    out = make_run(tmp_path)
    for side in ("sft", "final"):
        path = out / f"test_{side}" / "verifiers" / "test.json"
        figures = {key: value for key, value in json.loads(path.read_text()).items() if key not in soundness(side)}
        figures["corpus"] = {"reward": 0.7, "components": {}}
        write_json(path, figures)
    summary = summarise(read_run(out))
    assert not any("sound" in summary[side] for side in SOUND)


def test_the_improvement_is_final_minus_sft(run: Run) -> None:
    improvement = summarise(run)["improvement"]
    gain = total(FINAL) - total(SFT)
    assert improvement["reward"] == pytest.approx(gain) and improvement["original_total"] == pytest.approx(0.07)
    assert improvement["reward_ci"] == pytest.approx([gain - 0.031 * math.sqrt(2), gain + 0.031 * math.sqrt(2)])
    assert improvement["valid_json"] == pytest.approx(0.043) and improvement["unique"] == 0
    assert improvement["components"]["secrets"] == pytest.approx(0.5)
    assert summarise(run)["over_corpus"]["reward"] == pytest.approx(total(FINAL) - total(CORPUS))


def test_a_summary_is_plain_json_without_nan(run: Run) -> None:
    summary = summarise(run)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_without_a_corpus_there_is_nothing_to_compare_with(run: Run) -> None:
    bare = replace(run, **{
        side: replace(getattr(run, side), outcome=replace(getattr(run, side).outcome, corpus=None))
        for side in ("before", "after")
    })  # fmt: skip
    summary = summarise(bare)
    assert summary["corpus"] is None and summary["over_corpus"] is None


def test_the_interval_of_a_difference_is_wider_than_either(run: Run) -> None:
    low, high = difference_interval(run.before.outcome, run.after.outcome)
    assert high - low == pytest.approx(2 * 0.031 * math.sqrt(2))


def test_turns_have_shares_of_sound_worlds_with_intervals(out: Path) -> None:
    for side, (first, last) in {"sft": (0.1, 0.1), "final": (0.3, 0.5)}.items():
        path = out / f"test_{side}" / "verifiers" / "test.json"
        one = {"written": 1.0, "shares": {"sound": first}, "shares_ci": {"sound": [first - 0.05, first + 0.05]}}
        two = {"written": 0.7, "shares": {"sound": last}, "shares_ci": {"sound": [last - 0.05, last + 0.05]}}
        two |= {"gains": {"sound": last - first}, "gains_ci": {"sound": [last - first - 0.02, last - first + 0.02]}}
        write_json(path, {**json.loads(path.read_text()), "turns": [one, two]})
    run = read_run(out)
    assert [turn["sound"] for turn in summarise(run)["final"]["turns"]] == [0.3, 0.5]
    assert summarise(run)["final"]["turns"][1]["gain_ci"] == pytest.approx((0.18, 0.22))
    *_, sft, final, _, _ = verdict(run)
    assert "10% are sound after one turn" in sft and "no measurable change (0.000" in sft
    assert "30% are sound after one turn (95% interval 25% to 35%) and 50% after 2 (45% to 55%): more (+0.200" in final
    assert "70% were written again" in final
    assert measures({"seed 0": run})["sound_after_one_turn"].after[0] == 0.3
    write_json(out / "summary.json", summarise(run))
    assert "30% after one turn, 50% after 2" in learned(out)[1]
