"""What is amended on a command line before the parser reads it, where what was meant is clear to a person alone."""

import json
from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import pairwise
from typing import Any

from jsonargparse import get_loader

from lit_narrative.cli.messages import argument_names
from lit_narrative.cli.sources import arguments, find_class, nameable
from lit_narrative.errors import UserError, did_you_mean
from lit_narrative.files import read_yaml
from lit_narrative.lookup import current_path

OF_CLASSES = ("--model.", "--data.", "--trainer.callbacks.", "--trainer.logger.", "--trainer.strategy.")
"""Settings of a class that another argument names, whose errors the parser tells of that argument."""
CALLBACKS = "--trainer.callbacks"


def check_values(args: Sequence[str]) -> None:
    """Check that every setting of a class has a value.

    Raises:
        UserError: naming the first one that has none.
    """
    for argument, following in pairwise([*args, "--"]):
        asks = argument.startswith(OF_CLASSES) and "=" not in argument and not argument.endswith(".help")
        if asks and following.startswith("--"):
            raise UserError(f"{argument}: no value is given; write it as {argument}=VALUE")


def with_callback_settings(args: Sequence[str]) -> list[str]:
    """Hand ``--trainer.callbacks.worlds=16`` to the callback of the configuration that has such an argument.

    The parser hands it to the last callback, whichever that is. ``--trainer.callbacks.SAERefresh.worlds`` says which is
    meant. Behind ``--trainer.callbacks+=NAME`` settings are that one's, as the parser has it.

    Args:
        args: the command line, its configurations as files.

    Raises:
        UserError: none of them, or more than one, has the argument.
    """
    place = next((n for n, argument in enumerate(args) if argument.startswith(f"{CALLBACKS}.")), None)
    if place is None or any(argument.partition("=")[0].rstrip("+") == CALLBACKS for argument in args[:place]):
        return list(args)
    callbacks = _configured(args)
    if not callbacks:
        return list(args)
    kept: list[str] = []
    rest = iter(args[place:])
    for argument in rest:
        flag, equals, value = argument.partition("=")
        if not flag.startswith(f"{CALLBACKS}."):
            kept += [argument, *rest] if flag.rstrip("+") == CALLBACKS else [argument]
            continue
        _give(callbacks, flag.removeprefix(f"{CALLBACKS}."), value if equals else next(rest))
    return [*args[:place], f"{CALLBACKS}=[]", f"{CALLBACKS}={json.dumps(callbacks, default=str)}", *kept]


def _configured(args: Sequence[str]) -> list[dict[str, Any]]:
    """The callbacks of the last configuration that names some, each with its ``class_path`` and ``init_args``."""
    found: list[Any] = []
    for path in _configs(args):
        content = read_yaml(path)
        trainer = content.get("trainer") if isinstance(content, dict) else None
        named = trainer.get("callbacks") if isinstance(trainer, dict) else None
        found = named if isinstance(named, list) else [named] if named else found
    whole = [{"class_path": one} if isinstance(one, str) else deepcopy(one) for one in found]
    return [{"init_args": {}, **one} for one in whole if isinstance(one, dict) and "class_path" in one]


def _configs(args: Sequence[str]) -> Iterator[str]:
    for argument, following in pairwise([*args, ""]):
        flag, equals, value = argument.partition("=")
        if flag in {"--config", "-c"}:
            yield value if equals else following


def _give(callbacks: Sequence[dict[str, Any]], setting: str, value: str) -> None:
    """Set an argument of the callback that has it."""
    names = [_short(one["class_path"]) for one in callbacks]
    head, _, rest = setting.partition(".")
    chosen = [one for one, name in zip(callbacks, names, strict=True) if name == head and rest]
    path = (rest if chosen else setting).removeprefix("init_args.")
    known = [_arguments(one["class_path"]) for one in callbacks]
    *outer, last = path.split(".")
    first = path.partition(".")[0]
    have = chosen or [one for one, there in zip(callbacks, known, strict=True) if first in there]
    if not have:
        near = did_you_mean(first, {name for there in known for name in there})
        raise UserError(f"{CALLBACKS}.{setting}: none of the callbacks has '{first}' ({', '.join(names)}){near}")
    if len(have) > 1:
        which = " or ".join(f"{CALLBACKS}.{_short(one['class_path'])}.{path}" for one in have)
        raise UserError(f"{CALLBACKS}.{setting}: several callbacks have '{first}'; write {which}")
    settings = have[0]["init_args"]
    for name in outer:
        settings = settings.setdefault(name, {})
    settings[last] = get_loader("yaml")(value)


def _arguments(class_path: str) -> list[str]:
    """The names of the arguments of a callback, named with or without its module; none where it is not known."""
    path = current_path(class_path)
    module, _, name = path.rpartition(".")
    module = module or nameable().get(name, "")
    source = find_class(module, name) if module else None
    known = arguments(source) if source else None
    if known is not None:
        return list(known)
    if module:  # its file does not tell
        return [argument.partition(".")[0] for argument in argument_names(f"{module}.{name}")]
    return []


def _short(class_path: str) -> str:
    return class_path.rpartition(".")[2]
