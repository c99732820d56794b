"""``lit-narrative configs``: see the shipped configurations, and copy one to start from."""

from pathlib import Path

from lit_narrative.errors import UserError
from lit_narrative.files import write_text
from lit_narrative.lookup import find_config, shipped_configs


def list_configs() -> None:
    """List the shipped configurations with what each is for."""
    shipped = shipped_configs()
    width = max(map(len, shipped), default=0)
    for name, path in shipped.items():
        print(f"{name:<{width}}  {headline(path)}".rstrip())


def show(name: str) -> None:
    """Print a shipped configuration.

    Args:
        name: such as ``storyworld/cycle``.
    """
    print(find_config(name).read_text(encoding="utf-8"), end="")


def copy(name: str, to: str | None = None) -> None:
    """Copy a shipped configuration to a file that you can change.

    Args:
        name: such as ``storyworld/cycle``.
        to: the new file; by default the configuration's own file name, in this folder.

    Raises:
        UserError: there is such a file already.
    """
    source = find_config(name)
    target = Path(to or source.name)
    if target.exists():
        raise UserError(f"'{target}' exists already: name another file by --to")
    print(write_text(target, source.read_text(encoding="utf-8")))


def headline(path: Path) -> str:
    """Return the first comment line of a configuration: what it is for."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ") if first.startswith("#") else ""


configs = {"list": list_configs, "show": show, "copy": copy}
