from dataclasses import replace
from xml.etree import ElementTree

from lit_narrative.tasks.storyworld.report.run import Job, Run
from lit_narrative.tasks.storyworld.report.training import HEALTH, figures, training, warm_start
from tests.tasks.storyworld.report.make_run import STEPS


def test_reward_components_and_health_are_drawn(run: Run) -> None:
    body = training(run).body
    for title in ("Reward", "valid_json", "feature_quality", "KL to the reference", "Entropy", "Completion length"):
        assert f"<figcaption>{title}</figcaption>" in body
    assert "SFT, held-out test" in body and "Thin uprights" in body


def test_cycles_are_marked_where_they_begin(run: Run) -> None:
    chart = ElementTree.fromstring(str(training(run).body).split("</ul>")[1].split("</svg>")[0] + "</svg>")
    uprights = [e for e in chart.iter("line") if e.get("class") == "rule" and e.get("x1") == e.get("x2")]
    dots = {(e.findtext("title") or "").split(":")[0]: e.get("cx") for e in chart.iter("circle")}
    assert [e.get("x1") for e in uprights] == [dots[f"rollouts, step {n * STEPS}"] for n in (1, 2)]


def test_the_cycle_table_has_a_row_a_cycle(run: Run) -> None:
    table = training(run).body.split("Cycle by cycle")[1].split("</table>")[0]
    assert table.count("<tr>") == 1 + 3 and "+0.043" in table and "1240" in table


def test_a_skipped_refresh_is_said(run: Run) -> None:
    job = run.jobs["cycle"]
    skipped = replace(job, curves={**job.curves, "cycle/skipped": ((13, 1.0), (27, 0.0), (41, 0.0))})
    assert training(replace(run, jobs={"cycle": skipped})).body.count("too few") == 1


def test_a_run_without_curves_says_so(run: Run) -> None:
    bare = replace(run, jobs={})
    assert "No job of this run has logged a reward" in training(bare).body
    assert "left no curves" in warm_start(bare).body


def test_only_what_was_logged_is_drawn() -> None:
    drawn = figures({"kl": ((0, 0.1), (1, 0.2)), "other": ((0, 1),)}, HEALTH, ())
    assert [figure.title for figure in drawn] == ["KL to the reference"]


def test_the_warm_start_is_not_among_the_rl_jobs(run: Run) -> None:
    assert "Perplexity" in warm_start(run).body and "Perplexity" not in training(run).body


def test_a_reward_logged_once_can_be_drawn(run: Run) -> None:
    job = Job("grpo", {"reward": ((0, 0.5),)}, None, ())
    assert "<figcaption>Reward</figcaption>" in training(replace(run, jobs={"grpo": job})).body


def test_the_latest_rollouts_are_shown_with_rewards_and_advantage(run: Run) -> None:
    _, first, second, third = rollouts_of(run).split('<div class="rollout">')
    for name in ("reward", "advantage", "valid_json", "feature_quality"):
        assert name in first
    assert "+0.870" in first and "0.718" in first and "0.410" in first and "Storyworld" in first
    assert "−0.870" in second and "cut off" in second and "cut off" not in first
    assert third.count("–") == 2


def test_a_prompt_is_shown_once_for_its_group(run: Run) -> None:
    job = run.jobs["cycle"]
    first, second, third = job.rollouts
    rollouts = (first, replace(second, prompt=first.prompt), third)
    shown = rollouts_of(replace(run, jobs={"cycle": replace(job, rollouts=rollouts)}))
    assert shown.count(first.prompt.strip()) == 1 and shown.count('class="prompt"') == 2


def rollouts_of(run: Run) -> str:
    return str(training(run).body).split("What it learned from, at step 42")[1]


def test_without_such_a_table_nothing_is_said(run: Run) -> None:
    bare = replace(run, jobs={"cycle": replace(run.jobs["cycle"], rollouts=())})
    assert "What it learned from" not in training(bare).body
