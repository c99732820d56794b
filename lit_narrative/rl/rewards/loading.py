"""Custom rewards: by their path, ``package.module:object`` in a configuration, or in Python as they are."""

import ast
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lit_narrative.errors import UserError, did_you_mean
from lit_narrative.lookup import import_named
from lit_narrative.redaction import redact_text, unique
from lit_narrative.rl.rewards.base import Answer, AnyReward, AsyncReward, Reward
from lit_narrative.views import Rollout

RewardKey = str | AnyReward | Callable[..., Any]
"""What names a reward: its name or path, or in Python the reward or the function itself."""


@dataclass(frozen=True)
class FunctionReward:
    """A plain function of a batch's rollouts as a reward: it returns a number for each, in order.

    Args:
        function: at the top level of a module, so that worker processes find it.
        name: in logs; default: the function's.
    """

    function: Callable[[Sequence[Rollout]], Sequence[Answer]]
    name: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.function.__name__)

    def __call__(self, rollouts: Sequence[Rollout]) -> Sequence[Answer]:
        """What the function returns."""
        return self.function(rollouts)


def split_rewards(weights: Mapping[Any, float]) -> tuple[dict[str, float], dict[str, AnyReward]]:
    """The weights of rewards by name or path, and by name the rewards that are given as they are.

    A function is replaced by its path: what it is called with is the task's to say, as in a configuration.

    Raises:
        UserError: a key is neither of them, or two have one name.
    """
    named: dict[str, float] = {}
    given: dict[str, AnyReward] = {}
    for key, weight in weights.items():
        name = _name_of(key)
        if name in named:
            raise UserError(f"model.rewards: two rewards are called '{name}'; give one of them another name")
        named[name] = weight
        if not isinstance(key, str) and isinstance(key, Reward | AsyncReward):
            given[name] = key
    return named, given


def _name_of(key: Any) -> str:
    if isinstance(key, str):
        return key
    if isinstance(key, type):
        raise UserError(f"model.rewards: {key.__name__} is a class; give an object of it, as in {key.__name__}()")
    if isinstance(key, Reward | AsyncReward):
        return str(key.name)
    module, name = getattr(key, "__module__", None), getattr(key, "__qualname__", None)
    if not callable(key) or not module or getattr(sys.modules.get(module), str(name), None) is not key:
        raise UserError(
            f"model.rewards: {key!r:.100} is not a reward: give a name, an object with a `name` that is called with a "
            "list of rollouts, or a function at the top level of a module or a notebook"
        )
    return f"{module}:{name}"


def function_reward(path: str) -> FunctionReward:
    """The plain function at ``package.module:function`` as a reward.

    Raises:
        UserError: there is no such function.
    """
    module_name, _, name = path.partition(":")
    return FunctionReward(_attribute(path, module_name, name))


def check_path(path: str) -> None:
    """Check that a module has what a path names; it is imported, and nothing in it is called.

    Args:
        path: as in `import_reward`.

    Raises:
        UserError: there is no such module or object, or the path is malformed.
    """
    module_name, _, expression = path.partition(":")
    _attribute(path, module_name, _parsed(path, expression)[0])


def import_reward(path: str) -> AnyReward | None:
    """The reward at ``package.module:object``, or built by ``package.module:Class(argument=value, …)``.

    A class or another factory without arguments may leave the brackets out. Arguments are literals: numbers, texts,
    lists.

    Args:
        path: such as ``lit_narrative.rl.rewards.penalties:SoftOverlong(max_completion_length=512,
            soft_punish_cache=128)``.

    Returns:
        The reward; None if the path names a plain function, which a task may use otherwise.

    Raises:
        UserError: there is no such object, it cannot be built like that, or it is not a reward.
    """
    module_name, _, expression = path.partition(":")
    name, args, kwargs = _parsed(path, expression)
    reward = _attribute(path, module_name, name)
    # A plain name: an object is taken as it stands, a class is called without arguments.
    if args is None and not isinstance(reward, type):
        if not isinstance(reward, Reward | AsyncReward) and callable(reward):
            return None
    else:
        try:
            reward = reward(*(args or ()), **kwargs)
        except TypeError as error:
            raise UserError(f"reward '{path}': {error}; give its arguments as {name}(argument=value, …)") from error
    if not isinstance(reward, Reward | AsyncReward):
        raise UserError(f"reward '{path}' is not a reward: it needs a `name`, and to be called with a list of rollouts")
    return reward


def metric_names(rewards: Mapping[str, AnyReward]) -> dict[str, str]:
    """What metrics, tables and messages call each reward: a task's own as configured, a custom one by its ``name``.

    A path would bring its arguments into every file. The second reward of a name is ``name_2``.
    """
    names = {key: redact_text(getattr(reward, "name", key)) if ":" in key else key for key, reward in rewards.items()}
    names = {key: name.removeprefix("__main__:") for key, name in names.items()}  # a function of a notebook
    return dict(zip(rewards, unique(names.values()), strict=True))


def _parsed(path: str, expression: str) -> tuple[str, list[Any] | None, dict[str, Any]]:
    """Name, arguments (None without brackets) and keyword arguments of ``name`` or ``name(…)``."""
    try:
        # Parsed and not evaluated: a configuration may come from elsewhere, and must not run code.
        match ast.parse(expression.strip(), mode="eval").body:
            case ast.Name(name):
                return name, None, {}
            case ast.Call(ast.Name(name), args, keywords):
                # Literals alone: a configuration is data and may not call anything but the reward's class.
                values = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in keywords}
                return name, [ast.literal_eval(value) for value in args], values
            case _:
                raise ValueError
    except (ValueError, SyntaxError) as error:
        raise UserError(
            f"reward '{path}': expected package.module:object, or package.module:Class(argument=value, …) with "
            "numbers, texts or lists as values"
        ) from error


def _attribute(path: str, module_name: str, name: str) -> Any:
    module = import_named(module_name, f"reward '{path}'")
    # Not `name in vars(module)`: modules of earlier releases give their names by ``__getattr__``.
    if not hasattr(module, name):
        near = did_you_mean(name, [known for known in vars(module) if not known.startswith("_")])
        raise UserError(f"reward '{path}': {module_name} has no '{name}'{near}")
    return getattr(module, name)
