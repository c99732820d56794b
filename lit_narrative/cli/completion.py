"""Completion in a shell: what may stand next on a command line, read from the sources in a moment.

``eval "$(register-python-argcomplete lit-narrative)"`` in a shell's start file switches it on; the shell then runs the
command with ``_ARGCOMPLETE`` set, and `complete` answers in place of it. Parsers of jobs are made of what the
sources say, as those that Lightning makes take many seconds.
"""

import inspect
import os
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from itertools import pairwise
from keyword import iskeyword
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lit_narrative.cli.arguments import Function, is_many
from lit_narrative.cli.names import root_settings, trainer_settings
from lit_narrative.cli.sources import Source, descends, find_class, nameable, option_names
from lit_narrative.errors import UserError
from lit_narrative.files import read_yaml
from lit_narrative.lookup import current_path, find_config, shipped_configs

_KINDS = {"model": "LightningModule", "data": "LightningDataModule", "trainer.callbacks": "Callback"}
"""Setting that names a class -> what the class descends from."""
_SHIPPED = {"run": "recipes/", "sweep": "sweeps/"}
"""Command -> where what it takes by name is shipped."""


def complete(jobs: Iterable[str], commands: Mapping[str, Callable[[], Function | Mapping[str, Function]]]) -> None:
    """Answer a shell, and end the process.

    Args:
        jobs: names of Lightning's subcommands.
        commands: the other commands; each name -> what gives its function, or its functions by name.
    """
    import argcomplete  # of the extra `completion`

    words = os.environ["COMP_LINE"].split()
    asked = words[1] if len(words) > 1 else ""
    parser = ArgumentParser()
    below = parser.add_subparsers()
    for name in jobs:
        of_job = below.add_parser(name, allow_abbrev=False)
        if name == asked:
            _add_settings(of_job, name, words[2:])
    for name, give in commands.items():
        of_command = below.add_parser(name, allow_abbrev=False)
        if name == asked:
            _add_command(of_command, name, give())
    argcomplete.autocomplete(parser, always_complete_options="long")


def _add_settings(parser: ArgumentParser, job: str, words: list[str]) -> None:
    """The settings of a job, with those of the classes that its words name."""
    for name in root_settings(job):
        _add(parser, name, _named_by(name))
    for name in trainer_settings():
        _add(parser, f"trainer.{name}", _named_by(f"trainer.{name}"))
    for head, source in _classes(words).items():
        for name in (option_names(source) if source else None) or ():
            _add(parser, f"{head}.{name}")


def _add(parser: ArgumentParser, name: str, names: list[str] | None = None) -> None:
    action = parser.add_argument(f"--{name}")
    if names is not None:
        action.completer = _FilesToo(names) if name == "config" else _Names(names)  # type: ignore[attr-defined]


def _named_by(setting: str) -> list[str] | None:
    """The names that are shipped for a setting; None where it names nothing."""
    if setting == "config":
        return [name for name in shipped_configs() if not name.startswith(tuple(_SHIPPED.values()))]
    if setting not in _KINDS:
        return None
    sources = [find_class(module, name) for name, module in nameable("lit_narrative.").items()]
    return [one.name for one in sources if one and descends(one) == _KINDS[setting]]


def _classes(words: list[str]) -> dict[str, Source | None]:
    """The classes of model and data that a command line names, by its flags or in its configurations."""
    named: dict[str, str] = {}
    given = [part for word in words for part in word.split("=", 1)]
    for flag, value in pairwise(given):
        if flag == "--config":
            # What cannot be read is told when the command runs.
            with suppress(UserError):
                named |= _configured(read_yaml(find_config(value)))
        elif flag in {"--model", "--data"}:
            named[flag.removeprefix("--")] = value
    return {head: _find(path) for head, path in named.items()}


def _configured(content: Any) -> dict[str, str]:
    parts = {head: content.get(head) for head in ("model", "data")} if isinstance(content, dict) else {}
    paths = {head: part.get("class_path") for head, part in parts.items() if isinstance(part, dict)}
    return {head: path for head, path in paths.items() if isinstance(path, str)}


def _find(path: str) -> Source | None:
    module, _, name = current_path(path).rpartition(".")
    module = module or nameable().get(name, "")
    return find_class(module, name) if module else None


def _add_command(parser: ArgumentParser, name: str, command: Function | Mapping[str, Function]) -> None:
    """The arguments of a command, or of each of its own."""
    if isinstance(command, Mapping):
        below = parser.add_subparsers()
        for inner, function in command.items():
            _add_command(below.add_parser(inner), name, function)
        return
    hints = get_type_hints(command)
    for parameter in inspect.signature(command).parameters.values():
        word = parameter.name.removesuffix("_") if iskeyword(parameter.name.removesuffix("_")) else parameter.name
        needed = parameter.default is inspect.Parameter.empty and word == parameter.name
        settings: dict[str, Any] = {"choices": _choices(hints[parameter.name])}
        if hints[parameter.name] is bool:
            settings = {"action": "store_true"}
        elif is_many(hints[parameter.name]):
            settings["nargs"] = "+"
        action = parser.add_argument(word if needed else f"--{word}", **settings)
        if needed and (name in _SHIPPED or name == "configs"):
            start = _SHIPPED.get(name, "")
            names = [one.removeprefix(start) for one in shipped_configs() if one.startswith(start)]
            action.completer = _FilesToo(names) if start else _Names(names)  # type: ignore[attr-defined]


def _choices(kind: Any) -> list[str] | None:
    """The values of a ``Literal``, also of one in a union; None where a type has no such list."""
    if get_origin(kind) is Literal:
        return [str(value) for value in get_args(kind)]
    if get_origin(kind) in {Union, UnionType}:
        return [value for part in get_args(kind) for value in _choices(part) or ()] or None
    return None


class _Names:
    """Completes from a list of names."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def __call__(self, prefix: str, **kwargs: Any) -> list[str]:
        return [name for name in self.names if name.startswith(prefix)]


class _FilesToo(_Names):
    """Completes from a list of names, and files beside it."""

    def __call__(self, prefix: str, **kwargs: Any) -> list[str]:
        from argcomplete.completers import FilesCompleter

        return [*super().__call__(prefix), *FilesCompleter()(prefix, **kwargs)]
