"""The lines at the end of a recipe."""

from pathlib import Path

from lit_narrative.report.page import write_report
from lit_narrative.tasks.storyworld.report.page import make_report
from lit_narrative.tasks.storyworld.report.summary import learned
from tests.tasks.storyworld.report.make_run import edit_json, make_run


def test_score_and_sound_share_are_told_with_their_interval(out: Path) -> None:
    write_report(out, make_report(out))
    assert learned(out) == [
        "learned: strict score 0.581 -> 0.741 (SFT -> final, 256 held-out prompts; the corpus 0.758)",
        "sound: 4% -> 45% of worlds (95% 39% to 51%; the corpus 32%); play two on the page",
    ]


def test_a_run_of_an_earlier_release_has_no_sound_share(out: Path) -> None:
    write_report(out, make_report(out))
    edit_json(out / "summary.json", final={"reward": 0.5, "n": 9}, corpus=None)
    assert learned(out) == ["learned: strict score 0.581 -> 0.500 (SFT -> final, 9 held-out prompts)"]


def test_seeds_are_told_by_their_means(tmp_path: Path) -> None:
    for seed in (0, 1):
        make_run(tmp_path / f"seed_{seed}", seed)
    write_report(tmp_path, make_report(tmp_path))
    first, second = learned(tmp_path)
    assert first == "learned: strict score 0.581 -> 0.741 (95% 0.741 to 0.741), mean of 2 seeds"
    assert second.startswith("sound: 4% -> 45%") and second.endswith("mean of 2 seeds")
