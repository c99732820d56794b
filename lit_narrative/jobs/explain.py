"""What is wrong with a setting, in one line, with the name that was probably meant.

jsonargparse reports a wrong setting as a tree: for each type that the setting may have, why the value is not of that
type. The reason that helps is a leaf of it; the rest repeats the configuration.
"""

import re
import sys
from collections.abc import Iterable
from importlib import import_module
from inspect import getmembers, isclass

from jsonargparse import ArgumentParser

from lit_narrative.errors import did_you_mean

_KEY = re.compile(r'Parser key "([^"]+)"')
_CLASS = re.compile(r"Problem with given class_path '([^']+)'")
_GIVEN = re.compile(r"(?:Given value: |Got value: )(.*)")
_EXPECTED = re.compile(r"Expected (?:an? )?(?!dot import|path)(.+?)(?:\. Got value.*)?$", re.MULTILINE)


def explain(message: str, options: Iterable[str]) -> str:
    """Rewrite an error message of jsonargparse.

    Args:
        message: the message.
        options: the full names of what the command accepts (``trainer.max_epochs``).

    Returns:
        one line: the setting, what is wrong with it, and the nearest name; the message itself where its form is new.
    """
    where = ".".join(_KEY.findall(message))
    classes = _CLASS.findall(message)
    if unknown := _unknown_option(message):
        if classes:
            return (
                f"{where}: {_name(classes[-1])} has no argument '{unknown}'{_nearest(unknown, arguments(classes[-1]))}"
            )
        return f"there is no setting '{unknown}'{_nearest(unknown, options)}"
    if found := re.search(r"Expected a dot import path string: (\S+)", message):
        return f"{where}: there is no class '{found[1]}'{did_you_mean(found[1], class_names())}"
    if found := re.match(r"the following arguments are required: (.+)", message):
        missing = ", ".join(name.split(".", 1)[-1] for name in found[1].split(", "))
        return (
            f"not given: {missing}; name a configuration (`--config storyworld/sft`) or give --{missing.split(',')[0]}"
        )
    expected = [_type_name(text) for text in _EXPECTED.findall(message)]
    if where and expected and (given := _GIVEN.search(message)):
        return f"{where}: expected {' or '.join(dict.fromkeys(expected))}, got {given[1]!r}"
    return message


def arguments(class_path: str) -> list[str]:
    """Return the names of the arguments of a class, those of its dataclasses as ``argument.field``."""
    module, _, name = class_path.rpartition(".")
    return ArgumentParser(exit_on_error=False).add_class_arguments(
        getattr(import_module(module), name), fail_untyped=False
    )


def class_names() -> set[str]:
    """Return the names of the classes that a configuration can name without their module."""
    rooms = ("lit_narrative.", "lightning.pytorch.callbacks.", "lightning.pytorch.loggers.")
    modules = [module for name, module in list(sys.modules.items()) if name.startswith(rooms)]
    return {name for module in modules for name, _ in getmembers(module, isclass) if not name.startswith("_")}


def _unknown_option(message: str) -> str | None:
    """Return the option that is not known, without dashes and value."""
    if found := re.search(r"Group '([^']+)' does not accept option '([^']+)'", message):
        return f"{found[1]}.{found[2]}"
    if found := re.search(r"[Oo]ption '([^']+)' is not accepted|does not accept option '([^']+)'", message):
        return found[1] or found[2]
    if found := re.search(r"unrecognized arguments: (?:--)?([^\s=]+)", message):
        return found[1]
    return None


def _nearest(unknown: str, options: Iterable[str]) -> str:
    """Suggest an option; where none is near, one that differs in its first part (``modl.lr`` for ``model.lr``)."""
    names = list(options)
    if near := did_you_mean(unknown, names):
        return near
    head, _, rest = unknown.partition(".")
    heads = {name.partition(".")[0] for name in names}
    if rest and head not in heads:
        return did_you_mean(head, heads)
    return f"; it takes {', '.join(names)}" if len(names) < 20 else ""


def _name(class_path: str) -> str:
    return class_path.rpartition(".")[2]


def _type_name(text: str) -> str:
    """``<class 'int'>`` -> ``int``; other descriptions of types as they are."""
    text = re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>", r"\1", text.strip())
    return text.replace("NoneType", "null")
