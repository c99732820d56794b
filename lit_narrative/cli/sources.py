"""Classes and their arguments read from source files: in milliseconds, where importing them takes many seconds."""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

from lit_narrative.lookup import module_file

PACKAGE = "lit_narrative"
NAMEABLE = ("modules", "datamodules", "callbacks")
"""The subpackages whose classes a configuration can name without their module."""
_ALSO = ("lightning.pytorch.callbacks", "lightning.pytorch.loggers")
_CLASS = re.compile(r"^class (\w+)", re.MULTILINE)
ROOTS = frozenset({"LightningModule", "LightningDataModule", "Callback", "Logger"})
_PLAIN = ROOTS | {"ABC", "Protocol", "Generic", "Checkpoint", "object"}
"""Bases that bring no arguments."""
_DEEPEST = 12


@dataclass(frozen=True, slots=True)
class Source:
    """A class as its file has it.

    Attributes:
        name: of the class.
        module: that holds it.
        node: its definition.
    """

    name: str
    module: str
    node: ast.ClassDef = field(repr=False, compare=False)

    @property
    def path(self) -> str:
        """Import path."""
        return f"{self.module}.{self.name}"

    @property
    def summary(self) -> str:
        """First sentence of its docstring, without the full stop."""
        paragraph = (ast.get_docstring(self.node) or "").partition("\n\n")[0]
        return " ".join(paragraph.split()).partition(". ")[0].rstrip(".")


@cache
def nameable(prefix: str = "") -> Mapping[str, str]:
    """The classes that a configuration can name without their module: name -> module.

    Args:
        prefix: of the modules that are looked at; Lightning's own come last.
    """
    found: dict[str, str] = {}
    for package in (*(f"{PACKAGE}.{name}" for name in NAMEABLE), *_ALSO):
        for module, path in _modules(package) if package.startswith(prefix) else ():
            for name in _CLASS.findall(path.read_text(encoding="utf-8")):
                found.setdefault(name, module)
    return found


def _modules(package: str) -> Iterator[tuple[str, Path]]:
    located = module_file(package)
    for path in sorted(located[1].parent.glob("*.py")) if located else ():
        yield package if path.stem == "__init__" else f"{package}.{path.stem}", path


def find_class(module: str, name: str) -> Source | None:
    """Find a class by its module, which may have it from another one; None where it cannot be read there.

    Args:
        module: import path.
        name: of the class.
    """
    for _ in range(_DEEPEST):
        file = _file(module)
        if file is None:
            return None
        classes, imported = file
        if name in classes:
            return Source(name, module, classes[name])
        if name not in imported:
            return None
        module, name = imported[name]
    return None


def arguments(source: Source) -> Mapping[str, ast.expr | None] | None:
    """The arguments of a class, those that it hands on to its bases too: name -> annotation.

    None where the file does not tell: a base of another library, an ``__init__`` that is made elsewhere.
    """
    return _arguments(source, _DEEPEST)


def option_names(source: Source) -> list[str] | None:
    """The arguments of a class, and of settings in them (``sampling.temperature``); None: the file does not tell."""
    own = arguments(source)
    if own is None:
        return None
    inner = {name: settings_of(source, name) or () for name in own}
    return [full for name in own for full in (name, *(f"{name}.{part}" for part in inner[name]))]


def settings_of(source: Source, argument: str) -> Mapping[str, ast.expr | None] | None:
    """The fields of the dataclass that an argument is; None where it is something else, or may be."""
    for owner in _lineage(source, _DEEPEST):
        annotation = (_own_arguments(owner) or {}).get(argument)
        if annotation is None:
            continue
        parts = [part for part in _union(annotation) if not (isinstance(part, ast.Constant) and part.value is None)]
        if len(parts) != 1 or not isinstance(parts[0], ast.Name):
            return None
        kind = find_class(owner.module, parts[0].id)
        return arguments(kind) if kind and _is_dataclass(kind.node) else None
    return None


def method_arguments(source: Source, method: str) -> Mapping[str, ast.expr | None]:
    """The arguments of a method without ``self``: name -> default, None where there is none."""
    function = _method(source.node, method)
    if function is None:
        return {}
    given = function.args
    positional = [*given.posonlyargs, *given.args]
    defaults = [*([None] * (len(positional) - len(given.defaults))), *given.defaults]
    pairs = [*zip(positional, defaults, strict=True), *zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    return {argument.arg: default for argument, default in pairs if argument.arg != "self"}


def descends(source: Source) -> str | None:
    """Which of `ROOTS` a class descends from."""
    for one in _lineage(source, _DEEPEST):
        for base in _bases(one.node):
            if base in ROOTS:
                return base
    return None


def base_names(source: Source) -> list[str]:
    """The names of the classes that a class is made of."""
    return _bases(source.node)


# --- reading ----------------------------------------------------------------------------------------------------------


@cache
def _file(module: str) -> tuple[Mapping[str, ast.ClassDef], Mapping[str, tuple[str, str]]] | None:
    """The classes of a module, and what it imports from others: name -> (module, name there)."""
    located = module_file(module)
    if located is None or located[0] != module or located[1].suffix != ".py":
        return None
    try:
        tree = ast.parse(located[1].read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return None
    package = module if located[1].name == "__init__.py" else module.rpartition(".")[0]
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    imported: dict[str, tuple[str, str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level <= package.count(".") + 1:
            origin = resolve_name("." * node.level + (node.module or ""), package)
            imported |= {alias.asname or alias.name: (origin, alias.name) for alias in node.names}
    return classes, imported


def _arguments(source: Source, deepest: int) -> Mapping[str, ast.expr | None] | None:
    own, node = _own_arguments(source), source.node
    if deepest == 0 or _is_assigned(node, "__init__"):
        return None
    if own is not None and not _hands_on(node):
        return own
    found: dict[str, ast.expr | None] = dict(own or {})
    for name in _bases(node):
        if name in _PLAIN:
            continue
        base = find_class(source.module, name)
        inherited = _arguments(base, deepest - 1) if base else None
        if inherited is None:
            return None
        found = dict(inherited) | found if _is_dataclass(node) else found | dict(inherited) | found
        if inherited:
            break
    return found


def _own_arguments(source: Source) -> Mapping[str, ast.expr | None] | None:
    """The arguments that a class itself names; None where it leaves that to its bases."""
    if (function := _method(source.node, "__init__")) is not None:
        given = function.args
        every = [*given.posonlyargs, *given.args, *given.kwonlyargs]
        return {argument.arg: argument.annotation for argument in every if argument.arg != "self"}
    if _is_dataclass(source.node):
        fields = [one for one in source.node.body if isinstance(one, ast.AnnAssign)]
        return {one.target.id: one.annotation for one in fields if isinstance(one.target, ast.Name)}
    return None


def _lineage(source: Source, deepest: int) -> Iterator[Source]:
    yield source
    for name in _bases(source.node) if deepest else ():
        base = find_class(source.module, name) if name not in _PLAIN else None
        if base is not None:
            yield from _lineage(base, deepest - 1)


def _hands_on(node: ast.ClassDef) -> bool:
    function = _method(node, "__init__")
    return _is_dataclass(node) if function is None else function.args.kwarg is not None


def _method(node: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    return next((one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == name), None)


def _is_assigned(node: ast.ClassDef, name: str) -> bool:
    targets = [target for one in node.body if isinstance(one, ast.Assign) for target in one.targets]
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


def _bases(node: ast.ClassDef) -> list[str]:
    bases = [base.value if isinstance(base, ast.Subscript) else base for base in node.bases]
    return [base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in bases]


def _is_dataclass(node: ast.ClassDef) -> bool:
    decorators = [one.func if isinstance(one, ast.Call) else one for one in node.decorator_list]
    return any(isinstance(one, ast.Name) and one.id == "dataclass" for one in decorators)


def _union(annotation: ast.expr) -> list[ast.expr]:
    if isinstance(annotation, ast.BinOp):
        return [*_union(annotation.left), *_union(annotation.right)]
    return [annotation]
