"""Rewards by path."""

import pytest

from lit_narrative.errors import UserError
from lit_narrative.rl.rewards.loading import import_reward, metric_names
from lit_narrative.rl.rewards.penalties import Repetition, SoftOverlong, repetition

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
