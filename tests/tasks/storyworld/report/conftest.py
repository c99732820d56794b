from pathlib import Path

import pytest

from lit_narrative.tasks.storyworld.report.reader import read_run
from lit_narrative.tasks.storyworld.report.run import Run
from tests.tasks.storyworld.report.make_run import make_run


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A recipe's out folder with everything in it."""
    return make_run(tmp_path / "storyworld")


@pytest.fixture
def run(out: Path) -> Run:
    return read_run(out)
