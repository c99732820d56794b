"""What the wheel carries, and that it is all that an installation needs."""

import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from tests.paths import ROOT

FILES, FOLDERS = ("pyproject.toml", "setup.py", "README.md", "LICENSE"), ("lit_narrative", "configs")
"""What a build needs."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built through an sdist from a copy of the sources and without the network."""
    source = tmp_path_factory.mktemp("source")
    for name in FILES:
        shutil.copy(ROOT / name, source)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(source / "dist"), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    return next((source / "dist").glob("*.whl"))


def test_wheel_carries_every_module_configuration_and_data_file(wheel: Path) -> None:
    def kept(path: Path) -> bool:
        return path.is_file() and "__pycache__" not in path.parts

    expected = {path.relative_to(ROOT).as_posix() for path in (ROOT / "lit_narrative").rglob("*") if kept(path)}
    expected |= {
        f"lit_narrative/configs/{path.relative_to(ROOT / 'configs').as_posix()}"
        for path in (ROOT / "configs").rglob("*")
        if kept(path)
    }
    with ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert sorted(found ^ expected) == [], "name new packages and data files in pyproject.toml"


def test_the_sdist_carries_what_a_build_needs_and_no_more(wheel: Path) -> None:
    (archive,) = wheel.parent.glob("*.tar.gz")
    with tarfile.open(archive) as stored:
        names = {name.partition("/")[2].partition("/")[0] for name in stored.getnames()} - {""}
    assert names == {*FILES, *FOLDERS, "PKG-INFO", "setup.cfg", "lit_narrative.egg-info"}


def test_the_image_is_built_from_what_a_build_needs() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = {Path(name).name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]}
    assert copied == {*FILES, *FOLDERS, "constraints.txt"}
    allowed = [line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"]
    assert set(allowed) == copied


def test_what_a_notebook_needs_comes_from_the_package_itself_and_is_read_when_it_is_asked_for() -> None:
    code = "import sys, lit_narrative; assert 'torch' not in sys.modules; print(len(dir(lit_narrative)))"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert found == ["12"]
    names: dict[str, Any] = {}
    exec("from lit_narrative import *", names)
    modules = [names[name].__module__ for name in ("GRPOModule", "StoryworldData")]
    assert modules == ["lit_narrative.modules.grpo", "lit_narrative.datamodules.storyworld"]
    with pytest.raises(ImportError, match="cannot import name 'GRPOModul'"):
        from lit_narrative import GRPOModul  # type: ignore[attr-defined]  # noqa: F401


def test_pins_are_exact_and_name_no_place() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if line.count("==") != 1 or any(mark in line for mark in "+@/ ")] == []
    assert "torch==2.13.0" in lines


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_wheel_works_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    programs = tmp_path / "env" / "bin"
    pip = [str(programs / "python"), "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, str(wheel)], check=True, cwd=tmp_path)
    command = str(programs / "lit-narrative")
    listed = subprocess.run([command, "configs", "list"], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert "storyworld/sft" in listed.stdout
    fit = [command, "fit", "--config", "storyworld/sft", "--trainer.fast_dev_run=true"]
    subprocess.run(fit, check=True, cwd=tmp_path)
