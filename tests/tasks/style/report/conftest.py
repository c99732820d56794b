import shutil
from pathlib import Path

import pytest

from tests.tasks.style.report.make_style_run import make_style_run


@pytest.fixture(scope="session")
def made_style(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Out folders of the recipe ``style`` with three seeds and with one, to be copied."""
    folder = tmp_path_factory.mktemp("style")
    make_style_run(folder / "three", seeds=(0, 1, 2))
    make_style_run(folder / "one")
    return folder


@pytest.fixture
def three_seeds(tmp_path: Path, made_style: Path) -> Path:
    return Path(shutil.copytree(made_style / "three", tmp_path / "style"))


@pytest.fixture
def one_seed(tmp_path: Path, made_style: Path) -> Path:
    return Path(shutil.copytree(made_style / "one", tmp_path / "style"))
