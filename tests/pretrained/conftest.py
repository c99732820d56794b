"""Real pretrained models for the marker ``pretrained``, as folders in the hub's format."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import PRETRAINED, PRETRAINED_MAKER

NAMES = ("smollm2-135m-instruct", "all-minilm-l6-v2")


@pytest.fixture(scope="session")
def models(request: pytest.FixtureRequest) -> Path:
    """The folder of the models: the one that LIT_PRETRAINED names, or one that is made once and kept."""
    folder = PRETRAINED or request.config.cache.mkdir("pretrained")  # type: ignore[union-attr] # pytest's own plugin
    if all((folder / name / "config.json").is_file() for name in NAMES):
        return folder
    if PRETRAINED or not PRETRAINED_MAKER.is_file():
        pytest.skip(f"no {' and '.join(NAMES)} in '{folder}'; set LIT_PRETRAINED to a folder that holds both")
    made = subprocess.run([sys.executable, str(PRETRAINED_MAKER), str(folder)], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"the models cannot be made here: {made.stderr.strip().splitlines()[-1]}")
    return folder


@pytest.fixture(scope="session")
def smollm2(models: Path) -> Path:
    """SmolLM2-135M-Instruct: Llama architecture, grouped heads, tied embeddings, 49,152 tokens, a chat template."""
    return models / NAMES[0]


@pytest.fixture(scope="session")
def minilm(models: Path) -> Path:
    """all-MiniLM-L6-v2, a sentence encoder."""
    return models / NAMES[1]
