"""The checkout, and the folders of golden values and of real inputs beside it."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = Path(os.environ.get("LIT_GOLDEN", ROOT.parent / "shared" / "golden"))
DATA = Path(os.environ.get("LIT_DATA", ROOT.parent / "shared" / "data"))
EARLIER = ROOT / "tests" / "data" / "old_names"
"""Checkpoints and configurations that the release before wrote."""
