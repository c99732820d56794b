import shutil
from pathlib import Path

import pytest

from tests.tasks.verbalize.report.make_verbalize_run import make_verbalize_run


@pytest.fixture(scope="session")
def made_verbalize(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Out folders of the recipe ``verbalize`` with three seeds and with one, to be copied."""
    folder = tmp_path_factory.mktemp("verbalize")
    make_verbalize_run(folder / "three", seeds=(0, 1, 2))
    make_verbalize_run(folder / "one")
    return folder


@pytest.fixture
def three_seeds(tmp_path: Path, made_verbalize: Path) -> Path:
    return Path(shutil.copytree(made_verbalize / "three", tmp_path / "verbalize"))


@pytest.fixture
def one_seed(tmp_path: Path, made_verbalize: Path) -> Path:
    return Path(shutil.copytree(made_verbalize / "one", tmp_path / "verbalize"))
