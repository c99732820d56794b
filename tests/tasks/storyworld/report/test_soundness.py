"""The funnel of soundness on the page."""

from dataclasses import replace

from lit_narrative.tasks.storyworld.report.outcome import headline
from lit_narrative.tasks.storyworld.report.run import HeldOutTest, Run
from lit_narrative.tasks.storyworld.report.soundness import soundness, verdict


def without(test: HeldOutTest) -> HeldOutTest:
    level = replace(test.outcome.level, soundness=None)
    corpus = test.outcome.corpus and replace(test.outcome.corpus, soundness=None)
    return replace(test, outcome=replace(test.outcome, level=level, corpus=corpus))


def test_each_stage_stands_with_its_interval_and_the_variety_beside(run: Run) -> None:
    body = soundness(run).body
    # 45 % of 256: Wilson's interval.
    assert "45%" in body and "39–51%" in body and body.count("–") == 15
    assert "62" in body and "4.4" in body and "90%" in body
    assert verdict(run)[0] == "The share of sound worlds rose from 4% to 45% (95% interval 39% to 51%)."
    assert "62 shapes, 4.4 encounters a world" in headline(run).body


def test_a_run_of_an_earlier_release_says_so(run: Run) -> None:
    old = replace(run, before=without(run.before), after=without(run.after))
    assert "earlier release" in soundness(old).body and "<table>" not in soundness(old).body
    assert "Sound worlds" not in headline(old).body


def test_a_share_that_stays_within_chance_is_not_called_a_change(run: Run) -> None:
    same = replace(run, after=replace(run.after, outcome=run.before.outcome))
    assert "kept its level, within chance" in verdict(same)[0]
