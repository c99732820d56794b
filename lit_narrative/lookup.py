"""Things found by name: shipped configurations, modules that a person named, and class paths of earlier releases."""

import importlib
from importlib.resources import files
from pathlib import Path
from types import ModuleType

from lit_narrative.errors import UserError, did_you_mean

RENAMED: dict[str, str] = {}
"""Class paths of the release before -> today's: checkpoints and configurations hold the old ones."""


def shipped_folder() -> Path:
    """Return the folder of the shipped configurations: ``configs/`` of a checkout, or its copy in the wheel."""
    return Path(str(files("lit_narrative.configs")))


def shipped_configs() -> dict[str, Path]:
    """Return name (``storyworld/cycle``) -> file of every shipped configuration, in order of name."""
    folder = shipped_folder()
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.yaml"))}


def find_config(name: str, *, within: str = "") -> Path:
    """Find a configuration: a file of the user's, or a shipped one by its name, with or without ``.yaml``.

    Args:
        name: a path, or a shipped name such as ``storyworld/cycle``.
        within: folder of the shipped configurations in which short names are looked up first (``recipes``).

    Raises:
        UserError: there is neither; it names the folders looked in and the nearest name.
    """
    if Path(name).is_file():
        return Path(name)
    shipped = shipped_configs()
    short = name.removesuffix(".yaml")
    found = shipped.get(f"{within}/{short}") or shipped.get(short)
    if found:
        return found
    names = [key.removeprefix(f"{within}/") for key in shipped if key.startswith(within)]
    raise UserError(
        f"no configuration '{name}': there is no such file in {Path.cwd()}, nor in the shipped ones in "
        f"{shipped_folder()}{did_you_mean(short, names)} (`lit-narrative configs list` names them)"
    )


def import_named(module_name: str, what: str) -> ModuleType:
    """Import a module that a person named; a fault within it, such as a missing package, is raised as it is.

    Args:
        module_name: of the module.
        what: whose path names it, for the message, such as ``reward 'mine.rewards:Style'``.

    Raises:
        UserError: there is no such module.
    """
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise UserError(f"{what}: there is no module '{error.name}'") from error
