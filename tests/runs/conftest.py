"""One unbroken run to compare with."""

from functools import partial
from pathlib import Path

import pytest

from tests.once import MadeOnce
from tests.runs.jobs import cycle


@pytest.fixture(scope="session")
def unbroken(made_once: MadeOnce, policy: Path) -> Path:
    """The folder of a run that nothing interrupted."""
    return made_once("unbroken", partial(cycle, policy=policy))
