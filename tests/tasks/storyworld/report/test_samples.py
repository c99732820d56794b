from dataclasses import replace

from lit_narrative.tasks.storyworld.report.run import Issue, Run, Sample
from lit_narrative.tasks.storyworld.report.samples import FIRST, choose, worlds


def sample(prompt: str, reward: float, text: str = "{}", valid: float = 1.0) -> Sample:
    return Sample(prompt, text, reward, {"valid_json": valid})


def test_first_prompts_then_best_then_worst_that_parses() -> None:
    rewards = [0.5, 0.9, 0.1, 0.6, 0.8, 0.0, 0.3, 0.7]
    before = [sample(f"p{index}", 0.4) for index in range(8)]
    after = [sample(f"p{index}", reward, valid=float(reward > 0)) for index, reward in enumerate(rewards)]
    picked = choose(before, after)
    assert [late.prompt for _, _, late in picked] == ["p0", "p1", "p2", "p4", "p6"]
    assert all(early.prompt == late.prompt for _, early, late in picked)


def test_prompts_are_matched_whatever_their_order_and_repeated_ones_one_by_one() -> None:
    before = [sample("a", 0.1), sample("b", 0.2), sample("a", 0.3)]
    after = [sample("a", 0.4), sample("a", 0.5), sample("c", 0.6)]
    assert [(early.reward, late.reward) for _, early, late in choose(before, after)] == [(0.1, 0.4), (0.3, 0.5)]


def test_a_prompt_that_comes_again_is_shown_once(run: Run) -> None:
    same = tuple(replace(one, prompt="over again") for one in run.after.samples)
    body = worlds(replace(run, before=replace(run.before, samples=same), after=replace(run.after, samples=same))).body
    assert body.count("over again") == 1 and body.count("The same prompt again") == FIRST + 1


def test_worlds_are_drawn_beside_each_other(run: Run) -> None:
    body = worlds(run).body
    assert body.count('class="card') == 2 * (FIRST + 2)
    assert body.count("<svg viewBox") > 6 and "■ " in body and "only if" in body


def test_a_text_without_a_world_is_shown_as_it_begins(run: Run) -> None:
    texts = ('{"a": ', "[]", '{"encounters": []}', "null", "")
    cut = [sample(f"p{index}", 0.0, text, 0.0) for index, text in enumerate(texts)]
    body = worlds(replace(run, before=replace(run.before, samples=cut), after=replace(run.after, samples=cut))).body
    assert body.count("holds no world that can be drawn") == 2 * (FIRST + 1)


def test_missing_samples_are_said(run: Run) -> None:
    body = worlds(replace(run, before=replace(run.before, samples=()))).body
    assert "No samples were kept in test_sft" in body


def test_samples_of_other_prompts_are_said(run: Run) -> None:
    other = tuple(replace(one, prompt="x" + one.prompt) for one in run.before.samples)
    assert "different prompts" in worlds(replace(run, before=replace(run.before, samples=other))).body


def test_many_issues_are_counted_not_listed(run: Run) -> None:
    issue = Issue("$.encounters[0]", "dangling <i>reference</i>", "error")
    many = replace(run.after.samples[0], issues=(issue,) * 40)
    body = worlds(replace(run, after=replace(run.after, samples=(many,)))).body
    assert body.count("dangling &lt;i&gt;") == 5 and "and 35 more" in body
