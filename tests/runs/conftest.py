"""One unbroken run to compare with."""

from pathlib import Path

import pytest

from tests.runs.jobs import cycle


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory, policy: Path) -> Path:
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("unbroken")
    cycle(folder, policy)
    return folder
