"""Arguments of modules and tasks: Python's own values for those of numpy and for paths, and settings for dicts."""

from abc import ABCMeta
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import cache
from inspect import Signature, signature
from os import PathLike, fspath
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np

from lit_narrative.errors import UserError, check_choice


class NativeArguments(ABCMeta):
    """The type of classes whose instances get their arguments as Python's own values: see `native`.

    Settings may be given as dicts, as in a configuration.

    A type, since no `__init__` could do it: each class has its own, and Lightning reads all of their arguments.
    """

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Make an instance.

        Raises:
            UserError: an argument has to be settings, and is none.
        """
        args, kwargs = native(args), native(kwargs)
        hints, names = _hints(cls), list(cls.__signature__.parameters)

        def settings(name: str, value: Any) -> Any:
            return _as_settings(f"{cls.__name__}: {name}", value, hints.get(name, Any))

        # More arguments than there are names end in Python's own error.
        placed = [settings(names[place] if place < len(names) else "", value) for place, value in enumerate(args)]
        return super().__call__(*placed, **{name: settings(name, value) for name, value in kwargs.items()})

    @property
    def __signature__(cls) -> Signature:
        """The arguments of a class, which the method above would hide."""
        given = signature(cls.__init__)  # type: ignore[misc]  # of the class at hand
        return given.replace(parameters=list(given.parameters.values())[1:])


def native(value: Any) -> Any:
    """``value`` with Python's numbers, lists and texts for those of numpy and for paths, in containers and settings.

    Others would go into the checkpoint, by the optimizer too, which could not be read with ``weights_only``.
    """
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, PathLike):
        return fspath(value)
    parts: Mapping[Any, Any] = {}
    if is_dataclass(value) and not isinstance(value, type):
        parts = {item.name: getattr(value, item.name) for item in fields(value) if item.init}
    elif type(value) is dict:
        parts = value
    elif type(value) in (list, tuple):
        parts = dict(enumerate(value))
    made = {native(key): native(part) for key, part in parts.items()}
    # What holds none of them stays the very same object: it may have a state of its own.
    if all(
        old is new for pair in zip(parts.items(), made.items(), strict=True) for old, new in zip(*pair, strict=True)
    ):
        return value
    if isinstance(value, dict):
        return made
    return type(value)(made.values()) if isinstance(value, list | tuple) else replace(value, **made)


@cache
def _hints(cls: type) -> dict[str, Any]:
    """The types of a class's arguments, those that it hands on to its bases included."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if isinstance(base, NativeArguments) and "__init__" in vars(base):
            try:
                found |= get_type_hints(base.__init__)  # type: ignore[misc]  # of the class at hand
            except NameError:  # a class of one's own may name types that only a type checker imports
                continue
    return found


def _as_settings(where: str, value: Any, hint: Any) -> Any:
    """``value`` with a class of settings for each dict, at any depth, where its type asks for one.

    Raises:
        UserError: the class has no such setting, or the value is none of that class; the message names both.
    """
    choices = get_args(hint) if isinstance(hint, UnionType) or get_origin(hint) is Union else (hint,)
    classes = [choice for choice in choices if isinstance(choice, type) and is_dataclass(choice)]
    others = [choice for choice in choices if choice not in classes and choice is not NoneType]
    kinds = [(choice, get_origin(choice)) for choice in others if isinstance(get_origin(choice), type)]
    if classes and not others and not isinstance(value, (*classes, Mapping, NoneType)):
        names = " or ".join(f"a dict or {one.__name__}(...) of {one.__module__}" for one in classes)
        raise UserError(f"{where} is {value!r}; it has to be {names}")
    if classes and isinstance(value, Mapping) and Any not in others:
        kind = next((one for one in classes if value.keys() <= signature(one).parameters.keys()), classes[0])
        return _built(where, value, kind)
    if isinstance(value, list) and tuple in [kind for _, kind in kinds] and list not in [kind for _, kind in kinds]:
        return tuple(value)
    parts = [get_args(choice)[0] for choice, kind in kinds if kind in (list, Sequence)]
    if isinstance(value, list | tuple) and parts:
        made = [_as_settings(f"{where}[{number}]", part, parts[0]) for number, part in enumerate(value)]
        return value if all(old is new for old, new in zip(value, made, strict=True)) else made
    return value


def _built(where: str, given: Mapping[str, Any], kind: type) -> Any:
    """The settings of a class, of a dict.

    Raises:
        UserError: one is unknown or lacking.
    """
    known, hints = signature(kind).parameters, get_type_hints(kind)
    for name in given:
        check_choice(f"{where} ({kind.__name__} of {kind.__module__})", name, known)
    lacking = [name for name, one in known.items() if one.default is one.empty and name not in given]
    if lacking:
        raise UserError(f"{where}: {kind.__name__} of {kind.__module__} needs '{lacking[0]}'")
    return kind(**{name: _as_settings(f"{where}.{name}", value, hints[name]) for name, value in given.items()})
