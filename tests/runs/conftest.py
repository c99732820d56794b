"""The policy that the runs start from, and one unbroken run to compare with."""

from pathlib import Path

import pytest

from tests.runs.jobs import cycle, warm_start


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a tiny policy that writes worlds that can be played."""
    return warm_start(tmp_path_factory.mktemp("sft"))


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory, policy: Path) -> Path:
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("unbroken")
    cycle(folder, policy)
    return folder
