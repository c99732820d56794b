"""What is wrong in a job of a recipe is said before the first job, without building anything."""

from pathlib import Path

import pytest

from lit_narrative.cli.check import check_job, check_jobs
from lit_narrative.errors import UserError

LEARN = ["fit", "--config=storyworld/grpo"]


@pytest.fixture(autouse=True)
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule of one's own in the working directory, which holds no checkpoint."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "rules_to_check.py").write_text("def brevity(context): return 1.0\n")


def test_rewards_of_the_task_and_of_ones_own_are_known() -> None:
    check_job([*LEARN, '--model.rewards={sound: 0.5, "rules_to_check:brevity": 0.5}'])


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ("soundd", "model.rewards of StoryworldData: there is no 'soundd'; did you mean 'sound'"),
        ("rules_to_check:brevty", "rules_to_check has no 'brevty'; did you mean 'brevity'"),
        ("rules_to_chek:brevity", "there is no module 'rules_to_chek'"),
        ("rules_to_check:brevity(", "expected package.module:object"),
    ],
)
def test_a_reward_that_there_is_not_is_named_with_its_job(reward: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        check_jobs({"learn": [*LEARN, f'--model.rewards={{"{reward}": 1.0}}']})
    assert "job 'learn': " in str(error.value) and message in str(error.value), error.value
