"""What a job depends on: the modules of one's own that its settings name, and what is said of a change."""

import json
from pathlib import Path

import pytest
import yaml

from lit_narrative.cli.recipes.changes import describe_changes, digests_of_parts, own_modules
from lit_narrative.cli.recipes.process import job_digest, status_path, what_decides
from lit_narrative.cli.recipes.recipe import Job, Recipe, find_jobs, read_recipe
from lit_narrative.cli.recipes.runner import waiting
from lit_narrative.errors import UserError
from lit_narrative.files import write_json


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A fit with a reward of one's own, which imports a helper, and a test of its checkpoint; both are done."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    package = Path("verse_of_mine")
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "words.py").write_text("WORD = 'sea'\n")
    (package / "rewards.py").write_text("from . import words\n\n\ndef rhyme(rollouts): return words.WORD\n")
    Path("job.yaml").write_text(yaml.safe_dump({"model": {"rewards": {"verse_of_mine.rewards:rhyme": 1.0}}}))
    jobs = [
        {"name": "learn", "command": "fit", "config": "job.yaml", "overrides": {"model.lr": 0.5}},
        {"name": "exam", "command": "test", "config": "job.yaml", "overrides": {"ckpt_path": "${jobs.learn.ckpt}"}},
    ]
    Path("recipe.yaml").write_text(yaml.safe_dump({"out": "out", "jobs": jobs}))
    plan = read_recipe("recipe.yaml")
    for job in plan.jobs:
        finish(plan, job)
    return plan


def finish(plan: Recipe, job: Job) -> None:
    """Write what a job leaves that has ended well."""
    parts = digests_of_parts(job, what_decides(plan, job))
    status = {"digest": job_digest(plan, job), "finished": 1.0, "seconds": 1.0, "parts": parts}
    (plan.folder(job) / "checkpoints").mkdir(parents=True)
    (plan.folder(job) / "checkpoints" / "last.ckpt").touch()
    write_json(status_path(plan, job), status)


def names(jobs: list[Job]) -> list[str]:
    return [job.name for job in jobs]


def test_modules_of_ones_own_are_found_without_being_imported(plan: Recipe) -> None:
    value = {"verse_of_mine.rewards:rhyme(x=1)": 1.0, "at": ["torch.nn.Linear", "json.loads", "runs/verse_of_mine.txt"]}
    assert sorted(own_modules(value)) == ["verse_of_mine.rewards", "verse_of_mine.words"]
    assert own_modules({"class_path": "lit_narrative.modules.grpo.GRPOModule"}) == {}
    Path("broken_of_mine.py").write_text("def (")
    assert list(own_modules(["broken_of_mine:reward", "nowhere_of_mine:reward"])) == ["broken_of_mine"]


@pytest.mark.parametrize("name", ["rewards", "words"])
def test_a_changed_reward_function_runs_its_job_again(plan: Recipe, name: str) -> None:
    assert waiting(plan) == []
    Path("verse_of_mine", f"{name}.py").write_text("WORD = 'ship'\n")
    assert names(waiting(plan)) == ["learn", "exam"]
    [learn, _] = plan.jobs
    before = json.loads(status_path(plan, learn).read_text())["parts"]
    said = describe_changes(before, digests_of_parts(learn, what_decides(plan, learn)))
    # A helper that the reward no longer imports counts as changed too.
    assert said in {
        f"changed: module verse_of_mine.{name}",
        "changed: module verse_of_mine.rewards, module verse_of_mine.words",
    }


def test_what_has_changed_is_said(plan: Recipe) -> None:
    [learn, exam] = plan.jobs
    other = read_recipe("recipe.yaml", changes=["learn.model.lr=0.25", "learn.model.width=2"], seeds=[3])
    parts = [digests_of_parts(job, what_decides(plan, job)) for job in (learn, other.jobs[0])]
    assert describe_changes(*parts) == "changed: its seed, setting model.lr, setting model.width"
    before = digests_of_parts(exam, what_decides(plan, exam))
    Path("job.yaml").write_text("model: {}\n")
    (plan.out / "learn" / "job.json").write_text("{}")
    now = digests_of_parts(exam, what_decides(plan, exam))
    assert describe_changes(before, now).startswith("changed: configuration job.yaml, job learn, module verse")
    assert describe_changes(None, now) == "its settings have changed"


def test_a_forced_job_and_those_that_build_on_it_run_again(plan: Recipe) -> None:
    assert names(waiting(plan, {"learn"})) == ["learn", "exam"]
    assert names(waiting(plan, {"exam"})) == ["exam"]
    seeds = Recipe(Path("out"), (Job("seed_0/sft", "fit"), Job("seed_1/sft", "fit")))
    assert find_jobs(seeds, ["sft"], "--force") == {"seed_0/sft", "seed_1/sft"}
    assert find_jobs(seeds, ["seed_1/sft"], "--force") == {"seed_1/sft"}
    with pytest.raises(UserError, match="--force sfd: jobs: there is no 'sfd'; did you mean 'sft'"):
        find_jobs(seeds, ["sfd"], "--force")
