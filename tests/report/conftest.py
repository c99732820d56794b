import shutil
from pathlib import Path

import pytest

from lit_narrative.report.reader import read_run
from lit_narrative.report.run import Run
from tests.report.make_cards_run import make_cards_run
from tests.report.make_run import make_run


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A recipe's out folder with everything in it."""
    return make_run(tmp_path / "storyworld")


@pytest.fixture
def run(out: Path) -> Run:
    return read_run(out)


@pytest.fixture
def cards_out(tmp_path: Path, made_cards: Path) -> Path:
    """The out folder of the recipe ``cards`` with two seeds."""
    return Path(shutil.copytree(made_cards / "two", tmp_path / "cards"))


@pytest.fixture
def one_seed(tmp_path: Path, made_cards: Path) -> Path:
    """The same of a recipe with one seed."""
    return Path(shutil.copytree(made_cards / "one", tmp_path / "cards"))


@pytest.fixture(scope="session")
def made_cards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both, to be copied."""
    folder = tmp_path_factory.mktemp("cards")
    make_cards_run(folder / "two")
    make_cards_run(folder / "one", seeds=())
    return folder
