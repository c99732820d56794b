"""Pages of reference from the code: the settings of classes, the arguments of commands, the modules of the API."""

import ast
import collections.abc
import dataclasses
import inspect
import json
import types
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from docstring_parser import parse as parse_docstring

from lit_narrative.cli.job_help import own_classes
from lit_narrative.cli.main import COMMANDS, find_command
from lit_narrative.cli.sources import descends

PACKAGE = Path(__file__).resolve().parents[1] / "lit_narrative"
KINDS = {
    "LightningModule": "Models (`model:`)",
    "LightningDataModule": "Tasks (`data:`)",
    "Callback": "Callbacks (`trainer.callbacks:`)",
}
"""What a class descends from -> the heading of its kind."""
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
HEAD = "| setting | type | default | what |\n|---|---|---|---|\n"


def settings_page() -> str:
    """The settings of every class that a configuration can name, and of the groups of settings in them."""
    kinds: dict[str, list[type]] = {kind: [] for kind in KINDS}
    for source in own_classes():
        kinds[str(descends(source))].append(_load(source.module, source.name))
    listed = [*dict.fromkeys(one for found in kinds.values() for cls in found for one in _with_bases(cls))]
    groups = _groups(listed)
    bases = [cls for cls in listed if not any(cls in found for found in kinds.values())]
    lines = [
        "# Settings",
        "Made from the code. A configuration names a class by `class_path` and gives its settings as `init_args`; on "
        "the command line they are `--model.NAME`, `--data.NAME` and `--trainer.callbacks.CLASS.NAME`. The Trainer's "
        "own: `lit-narrative fit --help`.",
    ]
    sections = [(title, kinds[kind]) for kind, title in KINDS.items()]
    titles = _titles([*listed, *groups])
    for title, classes in [*sections, ("What several share", bases), ("Groups of settings", groups)]:
        lines += [f"## {title}", *(_class_section(cls, titles) for cls in sorted(classes, key=titles.__getitem__))]
    return "\n\n".join(lines) + "\n"


def commands_page() -> str:
    """The arguments of every command of the package that is not a job."""
    lines = [
        "# Commands",
        "Made from the code. An argument without a default stands by itself; one with a default is `--NAME`. The jobs "
        "`fit`, `validate`, `test`, `predict` and `write` take [settings](settings.md). What each command is for: [the "
        "command line](../command_line.md).",
    ]
    for name in COMMANDS:
        found = find_command(name)
        functions = found if isinstance(found, Mapping) else {"": found}
        for inner, function in functions.items():
            lines += [f"## {' '.join(filter(None, [name, inner]))}", *_function(function)]
    return "\n\n".join(lines) + "\n"


def api_pages() -> Iterator[tuple[str, str]]:
    """A page for each package, and an index of the modules."""
    index = [
        "# API",
        "Every public name, by package. `import lit_narrative` is light: classes are imported as they are asked for.",
    ]
    for package in [PACKAGE, *sorted(path.parent for path in PACKAGE.rglob("*/__init__.py"))]:
        dotted = ".".join(["lit_narrative", *package.relative_to(PACKAGE).parts])
        modules = [path for path in sorted(package.glob("*.py")) if not path.name.startswith("_")]
        if not modules:
            continue
        names = [f"{dotted}.{path.stem}" for path in modules]
        yield f"{dotted}.md", "\n\n".join([f"# {dotted}", *(f"::: {name}" for name in names)]) + "\n"
        rows = [
            f"| [{name}]({dotted}.md#{name}) | {_summary(path)} |" for name, path in zip(names, modules, strict=True)
        ]
        index += [f"## {dotted}", "\n".join(["| module | what |", "|---|---|", *rows])]
    yield "index.md", "\n\n".join(index) + "\n"


def _summary(path: Path) -> str:
    return _cell((ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0])


# --- classes ----------------------------------------------------------------------------------------------------------


def _load(module: str, name: str) -> type:
    found: type = getattr(__import__(module, fromlist=[name]), name)
    return found


def _with_bases(cls: type) -> Iterator[type]:
    """A class, and those of this package that it hands its settings on to."""
    yield cls
    own = vars(cls).get("__init__")
    parameters = () if own is None else inspect.signature(own).parameters.values()
    if own is None or any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters):
        above = next(one for one in cls.__mro__[1:] if "__init__" in vars(one))
        if above.__module__.startswith("lit_narrative"):
            yield from _with_bases(above)


def _groups(classes: Sequence[type]) -> list[type]:
    """The dataclasses that settings of some classes are made of, also within others."""
    found: list[type] = []
    left = [hint for cls in classes for hint in _hints(cls).values()]
    while left:
        hint = left.pop()
        left += get_args(hint) if get_origin(hint) is not Literal else ()
        if isinstance(hint, type) and dataclasses.is_dataclass(hint) and hint not in found:
            found.append(hint)
            left += _hints(hint).values()
    return found


def _hints(cls: type) -> dict[str, Any]:
    """The types of a class's own settings by name."""
    own = vars(cls).get("__init__")
    if own is None:
        return {}
    hints = get_type_hints(cls) if dataclasses.is_dataclass(cls) else get_type_hints(own)
    return {name: hints.get(name, Any) for name in _parameters(cls)}


def _parameters(cls: type) -> dict[str, inspect.Parameter]:
    own = vars(cls).get("__init__")
    found = inspect.signature(own).parameters.values() if own is not None else ()
    return {one.name: one for one in found if one.kind in _NAMED and one.name != "self"}


def _titles(classes: Sequence[type]) -> dict[type, str]:
    """The heading of each class: its name, with its module behind it where another class is called so."""
    names = Counter(cls.__name__ for cls in classes)
    return {
        cls: cls.__name__ if names[cls.__name__] == 1 else f"{cls.__name__} of {cls.__module__.rpartition('.')[2]}"
        for cls in classes
    }


def _class_section(cls: type, titles: Mapping[type, str]) -> str:
    documented = parse_docstring(inspect.cleandoc(cls.__doc__ or ""))
    helps = {entry.arg_name: entry.description or "" for entry in documented.params}
    hints = _hints(cls)
    rows = [_row(name, hints[name], one.default, helps.get(name, ""), titles) for name, one in _parameters(cls).items()]
    above = [_link(one, titles) for one in [*_with_bases(cls)][1:]]
    parts = [f"### {titles[cls]}", f"{_cell(documented.short_description or '')} `{cls.__module__}.{cls.__name__}`"]
    parts += [HEAD + "\n".join(rows)] if rows else []
    parts += [f"{'And the' if rows else 'The'} settings of {' and '.join(above)}."] if above else []
    return "\n\n".join(parts if rows or above else [*parts, "No settings."])


def _function(function: Callable[..., None]) -> list[str]:
    documented = parse_docstring(function.__doc__ or "")
    helps = {entry.arg_name: entry.description or "" for entry in documented.params}
    hints = get_type_hints(function)
    rows = []
    for name, one in inspect.signature(function).parameters.items():
        flag = name.removesuffix("_")
        shown = flag if one.default is one.empty and flag == name else f"--{flag}"
        rows.append(_row(shown, hints[name], one.default, helps.get(name, "")))
    return [documented.short_description or "", *([HEAD + "\n".join(rows)] if rows else [])]


# --- cells ------------------------------------------------------------------------------------------------------------


def _row(name: str, hint: Any, default: Any, text: str, titles: Mapping[type, str] = MappingProxyType({})) -> str:
    return f"| `{name}` | {_type(hint, titles)} | {_default(default)} | {_cell(text)} |"


def _link(cls: type, titles: Mapping[type, str]) -> str:
    """A class as a link to its section, where it has one."""
    return f"[{cls.__name__}](#{titles[cls].lower().replace(' ', '-')})" if cls in titles else f"`{cls.__name__}`"


def _cell(text: str) -> str:
    return " ".join(text.replace("``", "`").split()).replace("|", "\\|")


def _type(hint: Any, titles: Mapping[type, str]) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return ", ".join(f"`{_word(value)}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(part, titles) for part in inner))
    if origin is not None and inner:
        if origin is collections.abc.Callable:
            return "function"
        parts = [_type(part, titles) for part in inner if part is not Ellipsis]
        if issubclass(origin, Mapping):
            return f"dict of {' to '.join(parts)}"
        return f"{'list' if origin is collections.abc.Sequence else origin.__name__} of {', '.join(parts)}"
    if hint is type(None):
        return "`null`"
    if isinstance(hint, type):
        return _link(hint, titles)
    return "any" if hint is Any else f"`{hint}`"


def _default(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return "required"
    if dataclasses.is_dataclass(value) or "factory" in repr(value):
        return "its defaults"
    return f"`{_word(value)}`".replace("|", "\\|")


def _word(value: Any) -> str:
    """A value as YAML writes it."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, Mapping):
        value = dict(value)
    return value if isinstance(value, str) and value else json.dumps(value, default=str, ensure_ascii=False)
