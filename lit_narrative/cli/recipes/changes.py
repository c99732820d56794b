"""What a job's result depends on, part by part: digests, the modules of a person's own, and what has changed."""

import ast
import hashlib
import json
import re
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.util import resolve_name
from pathlib import Path
from typing import Any

from lit_narrative.cli.recipes.recipe import Job, texts_in
from lit_narrative.lookup import module_file, see_working_directory

_NAMED = re.compile(r"(?<![\w./\\-])([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)[.:][A-Za-z_]\w*")
"""``package.module:name`` or ``package.module.name``, anywhere in a text."""
_SHOWN = 3
_MOST_MODULES = 200


def digest_of(value: Any) -> str:
    """SHA-256 of a value as JSON, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def digests_of_parts(job: Job, decides: Mapping[str, Any]) -> dict[str, str]:
    """What decides a job's result, part by part: what a message calls the part -> its digest.

    Digests alone, since a setting may hold a key.

    Args:
        job: of a recipe.
        decides: what decides its result.
    """
    names = zip(job.configs, decides["configs"], strict=True)
    parts = {
        "the version of lit-narrative": decides["version"],
        "its command": decides["command"],
        "its seed": decides["seed"],
        **{f"setting {name}": value for name, value in decides["overrides"].items()},
        **{f"configuration {path.name}": text for path, text in names},
        **{f"module {name}": text for name, text in decides.get("modules", {}).items()},
        **{f"job {name}": status for name, status in decides["needs"].items()},
        "its report": [decides.get("report"), decides.get("sections")],
    }
    return {name: digest_of(value) for name, value in parts.items()}


def describe_changes(before: Mapping[str, str] | None, now: Mapping[str, str]) -> str:
    """Say which parts have changed.

    Args:
        before: parts and their digests as they were; None where an earlier release did not write them down.
        now: as they are.
    """
    changed = [name for name in {**now, **(before or {})} if (before or {}).get(name) != now.get(name)]
    if before is None or not changed:
        return "its settings have changed"
    more = [f"{len(changed) - _SHOWN} more"] if len(changed) > _SHOWN else []
    return f"changed: {', '.join([*changed[:_SHOWN], *more])}"


def own_modules(value: Any) -> dict[str, str]:
    """The modules that a configuration's texts name, and those that they import: name -> digest of the source.

    Those of this package, of installed ones and of Python are left out, which the version stands for. Nothing is
    imported.

    Args:
        value: of a configuration: texts, mappings and lists.
    """
    see_working_directory()
    modules: dict[str, str] = {}
    names = sorted({match for text in texts_in(value) for match in _NAMED.findall(text)})
    while names and len(modules) < _MOST_MODULES:
        found = _find(names.pop())
        if found is None or found[0] in modules:
            continue
        module, path = found
        state = path.stat()
        modules[module], imports = _read(module, path, state.st_mtime_ns, state.st_size)
        names += imports
    return modules


def _find(name: str) -> tuple[str, Path] | None:
    """The innermost module of a dotted name and its file; None where that is not a person's own."""
    top = name.partition(".")[0]
    if top == "lit_narrative" or top in sys.stdlib_module_names:
        return None
    found = module_file(name)
    return found if found and _is_own(found[1]) else None


def _is_own(path: Path) -> bool:
    installed = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    inside = any(path.is_relative_to(folder) for folder in installed)
    return path.suffix == ".py" and not inside and not {"site-packages", "dist-packages"}.intersection(path.parts)


@lru_cache(maxsize=1024)
def _read(module: str, path: Path, changed: int, size: int) -> tuple[str, tuple[str, ...]]:
    """The digest of a file and the names that it imports; when it changed and its size are for the cache."""
    source = path.read_bytes()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    try:
        names = tuple(_imports(ast.parse(source), package))
    except (SyntaxError, ValueError, RecursionError):  # the job will say so
        names = ()
    return hashlib.sha256(source).hexdigest(), names


def _imports(tree: ast.Module, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            try:
                name = resolve_name("." * node.level + (node.module or ""), package)
            except ImportError:  # beyond the outermost package
                continue
            yield from (f"{name}.{alias.name}" for alias in node.names)
