"""The names on a job's command line, and in its configurations, checked before the heavy libraries are imported.

What is wrong for certain is said at once; what the sources do not tell goes on to the parser.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from lit_narrative.cli.amend import check_values, with_callback_settings
from lit_narrative.cli.messages import class_names, no_argument, no_setting
from lit_narrative.cli.sources import (
    Source,
    arguments,
    find_class,
    method_arguments,
    nameable,
    option_names,
    settings_of,
)
from lit_narrative.errors import UserError, did_you_mean
from lit_narrative.files import read_yaml
from lit_narrative.lookup import current_path, find_config, see_working_directory

TRAINER, WRITER = ("lightning.pytorch.trainer.trainer", "Trainer"), ("lit_narrative.cli.write.trainer", "WriteTrainer")
ALWAYS = ("config", "print_config", "seed_everything", "trainer", "model", "data")
_BUILT = {"model", "datamodule", "dataloaders", "train_dataloaders", "val_dataloaders"}
"""Arguments of the Trainer's methods that are no settings."""
_NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
_CONFIG = {"--config", "-c"}


def check_names(command: str, args: Sequence[str]) -> None:
    """Check the names of configurations, settings and classes, and that settings of classes have a value.

    Args:
        command: ``fit``, ``validate``, ``test``, ``predict`` or ``write``.
        args: behind it.

    Raises:
        UserError: there is no such name; with the nearest one.
    """
    see_working_directory()
    checker, given = _Checker(command), resolve_configs(list(args))
    for argument, following in pairwise([*given, ""]):
        flag, equals, value = argument.partition("=")
        value = value if equals else following
        if flag in _CONFIG and value:
            checker.config(read_yaml(Path(value)))
        elif flag.startswith("--"):
            checker.flag(flag.removeprefix("--").rstrip("+"), value)
    check_values(args)
    with_callback_settings(given)


def resolve_configs(args: list[str]) -> list[str]:
    """Replace the names after ``--config`` and ``-c`` by the files they stand for, and check that each can be read.

    Raises:
        UserError: there is no such configuration, or it is not YAML.
    """
    resolved = list(args)
    for index, argument in enumerate(args):
        flag, equals, name = argument.partition("=")
        if flag in _CONFIG and equals:
            resolved[index] = f"{flag}={_readable(name)}"
        elif flag in _CONFIG and index + 1 < len(args):
            resolved[index + 1] = str(_readable(args[index + 1]))
    return resolved


def _readable(name: str) -> Path:
    """Find a configuration and check that it holds a YAML mapping."""
    path = find_config(name)
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold settings (`trainer:`, `model:`, `data:`), not {type(content).__name__}")
    return path


def root_settings(command: str) -> list[str]:
    """The names of a job's settings that stand in no group."""
    source = find_class(*(WRITER if command == "write" else TRAINER))
    assert source is not None
    return [*ALWAYS, *(name for name in method_arguments(source, command) if name not in _BUILT)]


def trainer_settings() -> Mapping[str, Any]:
    """The settings of the Trainer: name -> default, as the source has it."""
    source = find_class(*TRAINER)
    assert source is not None
    return method_arguments(source, "__init__")


class _Checker:
    """Goes through a command line in its order, since a later class takes the place of an earlier one.

    Args:
        command: of the job.
    """

    def __init__(self, command: str) -> None:
        self._root, self._trainer = root_settings(command), list(trainer_settings())
        self._classes: dict[str, Source | None] = {}
        self._foreign = False

    def config(self, content: Mapping[str, Any]) -> None:
        """Check a configuration."""
        for key, value in content.items():
            head = str(key).partition(".")[0]
            self._setting(head)
            if head in {"model", "data"} and head == key:
                self._part(head, value)
        trainer = content.get("trainer")
        for key, value in trainer.items() if isinstance(trainer, dict) else ():
            self._setting(f"trainer.{key}")
            if key in {"callbacks", "logger"}:
                for one in value if isinstance(value, list) else [value]:
                    self._built(f"trainer.{key}", one)

    def flag(self, name: str, value: str) -> None:
        """Check a setting of the command line."""
        self._setting(name)
        head, _, rest = name.partition(".")
        if head not in {"model", "data"}:
            return
        rest = rest.removeprefix("init_args.")
        if rest in {"", "class_path"}:
            self._classes[head] = self._named(head, value)
        elif rest != "help" and not rest.startswith(("dict_kwargs", "help.")):
            self._argument(head, self._classes.get(head), rest)

    def _setting(self, name: str) -> None:
        head, _, rest = name.partition(".")
        first = rest.partition(".")[0]
        known = head in self._root or head in {"help", "h"}
        if not known or (head == "trainer" and rest and first not in [*self._trainer, "help"]):
            options = [*self._root, *(f"trainer.{one}" for one in self._trainer)]
            raise UserError(no_setting(name, options))

    def _part(self, head: str, value: Any) -> None:
        """The model or the data of a configuration."""
        if not isinstance(value, dict) or "class_path" in value:
            self._classes[head] = self._built(head, value)
        elif isinstance(value.get("init_args"), dict):
            self._arguments(head, self._classes.get(head), value["init_args"])

    def _built(self, where: str, value: Any) -> Source | None:
        """What is named with its arguments."""
        if isinstance(value, str):
            return self._named(where, value)
        if not isinstance(value, dict) or not isinstance(value.get("class_path"), str):
            return None
        source = self._named(where, value["class_path"])
        if isinstance(value.get("init_args"), dict):
            self._arguments(where, source, value["init_args"])
        return source

    def _named(self, where: str, value: str) -> Source | None:
        if not _NAME.fullmatch(value):  # a file, JSON, nothing
            return None
        module, _, name = current_path(value).rpartition(".")
        if module:
            self._foreign |= module.partition(".")[0] not in {"lit_narrative", "lightning"}
            return find_class(module, name)
        known = nameable()
        # Classes of modules that other settings name are found by their names alone too, once those are imported.
        if name not in known and name not in {"null", "true", "false"} and not self._foreign:
            if name in class_names():  # imported in this process already
                return None
            raise UserError(f"{where}: there is no class '{name}'{did_you_mean(name, known)}")
        return find_class(known[name], name) if name in known else None

    def _arguments(self, where: str, source: Source | None, given: Mapping[str, Any]) -> None:
        for name in _dotted(given):
            self._argument(where, source, name)

    def _argument(self, where: str, source: Source | None, name: str) -> None:
        known = arguments(source) if source else None
        if source is None or known is None:
            return
        first, _, rest = name.partition(".")
        inner = settings_of(source, first) if rest and first in known else None
        if first in known and (inner is None or rest.partition(".")[0] in inner):
            return
        raise UserError(f"{where}: {no_argument(source.name, name, option_names(source) or [])}")


def _dotted(given: Mapping[str, Any]) -> Iterator[str]:
    """``{sampling: {top_k: 1}}`` -> ``sampling``, ``sampling.top_k``."""
    for key, value in given.items():
        yield str(key)
        for inner in value if isinstance(value, dict) else ():
            yield f"{key}.{inner}"
