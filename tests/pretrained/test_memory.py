"""Memory of training a real model whose vocabulary is large, by default settings."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

pytestmark = [pytest.mark.pretrained, pytest.mark.timeout(900)]


@pytest.mark.parametrize("algorithm", ["sft", "grpo"])
def test_training_with_adapters_on_four_rows_of_600_tokens_stays_under_4_gib(algorithm: str, smollm2: Path) -> None:
    command = [sys.executable, "-m", "tests.pretrained.memory", algorithm, smollm2]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert not done.returncode, done.stderr[-2000:]
    assert float(done.stdout.split()[-1]) < 4 * 1024
