"""Arguments of modules and tasks as Python's own values, in place of numpy's and of paths."""

from abc import ABCMeta
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from inspect import Signature, signature
from os import PathLike, fspath
from typing import Any

import numpy as np


class NativeArguments(ABCMeta):
    """The type of classes whose instances get their arguments as Python's own values: see `native`.

    A type, since no `__init__` could do it: each class has its own, and Lightning reads all of their arguments.
    """

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Make an instance."""
        return super().__call__(*native(args), **native(kwargs))

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
