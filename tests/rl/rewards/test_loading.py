"""Rewards by path."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from lit_narrative.datamodules.base import TaskDataModule
from lit_narrative.errors import UserError
from lit_narrative.rl.rewards.loading import import_reward, metric_names, split_rewards
from lit_narrative.rl.rewards.penalties import Repetition, SoftOverlong, repetition
from lit_narrative.tasks.storyworld.rewards import ComponentReward, Scorer
from lit_narrative.tasks.storyworld.verifiers.base import VerifierConfig
from lit_narrative.views import Rollout

HERE = "lit_narrative.rl.rewards.penalties"


def test_an_object_a_class_and_a_call() -> None:
    assert import_reward(f"{HERE}:repetition") is repetition
    assert import_reward(f"{HERE}:Repetition") == Repetition()
    assert import_reward(f"{HERE}:Repetition(2, max_penalty=-0.5)") == Repetition(2, -0.5)
    found = import_reward(f"{HERE}:SoftOverlong(max_completion_length=512, soft_punish_cache=128, name='long')")
    assert found == SoftOverlong(512, 128, "long")


def test_metrics_are_named_by_the_reward_and_never_by_its_arguments() -> None:
    paths = [
        "repetition",
        f"{HERE}:Repetition(3)",
        f"{HERE}:Repetition(4)",
        f"{HERE}:SoftOverlong(512, 128, 'a?token=SECRET')",
    ]
    made = {path: import_reward(path) if ":" in path else repetition for path in paths}
    names = metric_names({path: reward for path, reward in made.items() if reward is not None})
    assert list(names) == paths
    assert list(names.values()) == ["repetition", "repetition_2", "repetition_3", "a?token=<redacted>"]


def test_a_plain_function_is_left_to_the_task() -> None:
    assert import_reward("lit_narrative.rl.advantages:nanstd") is None


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("lit_narrative.rl.penalty:repetition", r"there is no module 'lit_narrative\.rl\.penalty'"),
        (
            f"{HERE}:repetitions",
            r"lit_narrative\.rl\.rewards\.penalties has no 'repetitions'; did you mean 'repetition'",
        ),
        (
            f"{HERE}:SoftOverlong",
            r"missing 2 required positional arguments.*; give its arguments as SoftOverlong\(argument",
        ),
        (
            f"{HERE}:Repetition(n=3)",
            r"unexpected keyword argument 'n'; give its arguments as Repetition\(argument=",
        ),
        (f"{HERE}:Repetition(open('x'))", r"expected package\.module:object, or package\.module:Class\(argument="),
        (f"{HERE}:Repetition(", r"expected package\.module:object"),
        (f"{HERE}:", r"expected package\.module:object"),
        (f"{HERE}:Repetition.penalty", r"expected package\.module:object"),
        (
            "lit_narrative.views:Rollout(1, 2, 3, True, '')",
            r"is not a reward: it needs a `name`, and to be called with",
        ),
        ("lit_narrative.rl.advantages:EPS", r"is not a reward"),
        (f"{HERE}:Repetition(ngram_size=0)", r"ngram_size=0 must be at least 1"),
    ],
)
def test_refused(path: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        import_reward(path)


def test_a_fault_within_the_module_is_shown_as_it_is(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_reward.py").write_text("import there_is_no_such_library")  # type: ignore[operator]
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="there_is_no_such_library"):
        import_reward("broken_reward:thing")


def brevity(rollouts: Sequence[Rollout]) -> list[float]:
    """1 for each text of one letter."""
    return [float(len(rollout.text) == 1) for rollout in rollouts]


def test_in_python_rewards_are_given_as_they_are() -> None:
    reward = Repetition(2)
    weights, given = split_rewards({"schema": 1.0, reward: 0.5, brevity: 0.25})
    assert weights == {"schema": 1.0, "repetition": 0.5, f"{__name__}:brevity": 0.25}
    assert given == {"repetition": reward}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({Repetition: 1.0}, r"Repetition is a class; give an object of it, as in Repetition\(\)"),
        ({Repetition(): 1.0, "repetition": 1.0}, "two rewards are called 'repetition'"),
        ({lambda rollouts: []: 1.0}, "is not a reward: give a name, an object .* or a function at the top level"),
        ({3: 1.0}, "3 is not a reward"),
    ],
)
def test_what_is_no_reward_is_refused_at_once(weights: dict[Any, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        split_rewards(weights)


def test_a_plain_function_scores_rollouts_where_the_task_has_no_use_for_it() -> None:
    path = f"{__name__}:brevity"
    reward = TaskDataModule().reward_functions([path])[path]
    empty = torch.zeros(0, dtype=torch.long)
    rollouts = [Rollout(empty, empty, torch.zeros(0), True, text) for text in ("a", "ab")]
    assert reward(rollouts) == [1, 0]  # type: ignore[operator]
    assert metric_names(
        {path: reward, "__main__:other": ComponentReward("__main__:other", Scorer(VerifierConfig()))}
    ) == {
        path: "brevity",
        "__main__:other": "other",
    }
