from dataclasses import replace

import pytest

from lit_narrative.tasks.storyworld.report.outcome import components, honesty, honesty_verdict, variety, verdict
from lit_narrative.tasks.storyworld.report.run import HeldOutTest, Level, Outcome, Run


def changed(test: HeldOutTest, reward: float, original_total: float | None = 0.6, **changes: object) -> HeldOutTest:
    level = Level(reward, original_total, test.outcome.level.components)
    values = {"level": level, "reward_ci": (reward - 0.03, reward + 0.03), **changes}
    return replace(test, outcome=replace(test.outcome, **values))  # type: ignore[arg-type]


def outcome_of(run: Run, before: float, after: float, **changes: object) -> Run:
    return replace(run, before=changed(run.before, before), after=changed(run.after, after, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("before", "after", "word"), [(0.6, 0.75, "rose"), (0.75, 0.6, "fell"), (0.6, 0.62, "did not change measurably")]
)
def test_the_first_sentence_says_whether_the_score_changed(run: Run, before: float, after: float, word: str) -> None:
    first = verdict(outcome_of(run, before, after))[0]
    assert f"the strict score {word}: from {before:.3f} to {after:.3f}" in first


@pytest.mark.parametrize(("corpus", "word"), [(0.5, "above"), (0.72, "level with"), (0.9, "still below")])
def test_the_second_sentence_compares_with_the_corpus(run: Run, corpus: float, word: str) -> None:
    level = Level(corpus, None, {})
    second = verdict(outcome_of(run, 0.6, 0.74, corpus=level))[1]
    assert f"That is {word} the corpus" in second and f"{corpus:.3f}" in second


def test_the_share_of_sound_worlds_comes_first_where_it_was_measured(run: Run) -> None:
    assert verdict(run)[0] == "The share of sound worlds rose from 4% to 45% (95% interval 39% to 51%)."
    assert "strict score" in verdict(run)[1]


def test_an_unmeasured_corpus_is_said(run: Run) -> None:
    bare = replace(
        run,
        before=replace(run.before, outcome=replace(run.before.outcome, corpus=None)),
        after=replace(run.after, outcome=replace(run.after.outcome, corpus=None)),
    )
    assert "was not measured" in " ".join(verdict(bare))


@pytest.mark.parametrize(("share", "word"), [(0.95, "rose"), (0.6, "fell"), (0.85, "within chance")])
def test_the_third_sentence_is_about_valid_json(run: Run, share: float, word: str) -> None:
    assert word in verdict(outcome_of(run, 0.6, 0.7, valid_json=share))[2]


@pytest.mark.parametrize(
    ("after", "lenient", "words"),
    [
        (0.75, 0.7, "hard to cheat"),
        (0.6, 0.75, "what reward hacking looks like"),
        (0.62, 0.63, "Neither total changed measurably"),
        (0.4, 0.6, "The strict total fell"),
        (0.4, None, "was not measured"),
    ],
)
def test_rising_by_cheating_is_called_so(run: Run, after: float, lenient: float | None, words: str) -> None:
    assert words in honesty_verdict(outcome_of(run, 0.6, after, original_total=lenient))


@pytest.mark.parametrize(
    ("playable", "words"), [(0.66, "was earned"), (0.12, "is partial credit"), (0.01, "was not earned")]
)
def test_whether_the_score_was_earned_is_answered_by_play(run: Run, playable: float, words: str) -> None:
    level = run.after.outcome.level
    assert level.soundness is not None
    played = replace(level, reward=0.9, soundness=replace(level.soundness, playable=playable))
    after = replace(run.after, outcome=replace(run.after.outcome, level=played))
    answer = honesty_verdict(replace(run, after=after))
    assert words in answer and f"from 10% to {playable:.0%}" in answer


def test_an_unmeasured_lenient_total_leaves_its_dots_out(run: Run) -> None:
    assert honesty(run).body.count("hollow") == 3
    assert "hollow" not in honesty(replace(run, before=changed(run.before, 0.6, None, corpus=None),
                                           after=changed(run.after, 0.7, None, corpus=None))).body  # fmt: skip


def test_components_of_a_user_are_shown_by_name(run: Run) -> None:
    level = run.after.outcome.level
    extended = replace(level, components={**level.components, "rhyme<s>": 0.4})
    body = components(replace(run, after=replace(run.after, outcome=replace(run.after.outcome, level=extended)))).body
    assert "rhyme&lt;s&gt;" in body and "<s>" not in body


def test_shrinking_variety_is_said(run: Run) -> None:
    assert "variety of structures shrank" in variety(run).body
    outcome: Outcome = replace(run.after.outcome, unique_skeleton=0.2)
    assert "stayed about level" in variety(replace(run, after=replace(run.after, outcome=outcome))).body
    outcome = replace(run.after.outcome, unique_skeleton=None)
    assert "was not measured" in variety(replace(run, after=replace(run.after, outcome=outcome))).body
