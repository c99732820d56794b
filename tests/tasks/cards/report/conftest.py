import shutil
from pathlib import Path

import pytest

from tests.tasks.cards.report.make_cards_run import make_cards_run


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
