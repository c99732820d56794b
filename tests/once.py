"""What several tests begin from, made once."""

from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


class MadeOnce:
    """Makes folders that tests of several files read, each once in a session, whichever parallel process asks first.

    Nothing in them is to be changed: tests that write take a copy.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, name: str, make: Callable[[Path], object]) -> Path:
        """The folder of that name, filled by ``make``."""
        folder, done = self.folder / name, self.folder / f"{name}.done"
        with FileLock(self.folder / f"{name}.lock"):
            if not done.exists():
                make(folder)
                done.touch()
        return folder
