"""Set up and run: ``python3 run.py demo`` for the main job, ``python3 run.py test`` for the tests.

Needs Python 3.11 or newer with pip, and nothing else. The environment is made in ``.venv`` from ``constraints.txt``,
and again only when that, ``pyproject.toml`` or the Python changes. Arguments after the command go to what it runs:

    python3 run.py demo --seed 1           lit-narrative run storyworld --seed 1
    python3 run.py test                    ruff, mypy, lint-imports, pytest
    python3 run.py test -k grpo            pytest -k grpo
    python3 run.py setup                   only the environment
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"
PROGRAMS = ENVIRONMENT / ("Scripts" if os.name == "nt" else "bin")
PINS = ENVIRONMENT / "pins.sha256"
"""Digest of the pins and the Python that the environment was made for."""
PYTHON = (3, 11)

CHECKS = (["ruff", "check"], ["ruff", "format", "--check"], ["mypy"], ["lint-imports"])
"""What ``test`` runs before pytest when it is given no arguments."""

PARALLEL = ("-n", "auto", "--dist", "loadfile", "--no-loadscope-reorder")
"""How ``test`` runs all of them: a process a core, each file in one."""

TEST_SETTINGS = {
    "OMP_NUM_THREADS": "1",  # the models of the tests are too small to share
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",  # a missing file then fails at once instead of waiting for a download
    "WANDB_MODE": "offline",
    "PYTHONDONTWRITEBYTECODE": "",  # many tests start processes: each would compile the package again
}


def main(args: list[str]) -> int:
    """Run a command; return its exit code."""
    if sys.version_info < PYTHON:
        print(
            f"run.py needs Python {PYTHON[0]}.{PYTHON[1]} or newer; this is {sys.version.split()[0]} ({sys.executable})"
        )
        return 2
    commands = {"demo": demo, "test": test, "setup": lambda rest: 0}
    if not args or args[0] not in commands:
        print(__doc__)
        return 0 if args[:1] in (["-h"], ["--help"]) else 2
    return set_up() or commands[args[0]](args[1:])


def set_up() -> int:
    """Make the environment if there is none for these pins; return pip's exit code."""
    pins = b"".join((ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt"))
    digest = hashlib.sha256(sys.version.encode() + pins).hexdigest()
    if PINS.is_file() and PINS.read_text() == digest:
        return 0
    print(f"Making the environment {ENVIRONMENT} (some minutes, 2 GB or more) ...", flush=True)
    try:
        make_environment()
    except subprocess.CalledProcessError as error:
        print(f"The environment could not be made: {error}")
        print("Is the network there? On Debian and Ubuntu, is the package python3-venv installed?")
        return 1
    PINS.write_text(digest)
    return 0


def make_environment() -> None:
    """Create ``.venv`` again and install the package, for development, with exact pins.

    PyTorch comes first and by its pin, so that nothing installed later changes its version. On Linux the default index
    gives the build of that version with libraries for GPUs; a CPU build of it satisfies the pin as well.

    Raises:
        subprocess.CalledProcessError: pip failed.
    """
    import venv

    venv.create(ENVIRONMENT, clear=True, with_pip=True)
    pip = [str(PROGRAMS / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pip += ["--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, "torch"], check=True, cwd=ROOT)
    subprocess.run([*pip, "--editable", ".[dev]"], check=True, cwd=ROOT)


def demo(args: list[str]) -> int:
    """Run the main job: the recipe ``storyworld``."""
    return call(["lit-narrative", "run", "storyworld", *args], {})


def test(args: list[str]) -> int:
    """Run the checks and the tests; with arguments, only pytest with them. The first that fails ends it."""
    for check in () if args else CHECKS:
        print("$", *check, flush=True)
        if code := call(list(check), {}):
            return code
    return call(["pytest", *(args or PARALLEL)], TEST_SETTINGS)


def call(command: list[str], settings: dict[str, str]) -> int:
    """Run a program of the environment in the project's folder; return its exit code."""
    program = str(PROGRAMS / command[0])
    try:
        return subprocess.run([program, *command[1:]], cwd=ROOT, env={**os.environ, **settings}).returncode
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
