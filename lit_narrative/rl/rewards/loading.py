"""Custom rewards by their path: ``package.module:object`` in a configuration."""

import ast
from collections.abc import Mapping
from typing import Any

from lit_narrative.errors import UserError, did_you_mean
from lit_narrative.lookup import import_named
from lit_narrative.redaction import redact_text, unique
from lit_narrative.rl.rewards.base import AnyReward, AsyncReward, Reward


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
