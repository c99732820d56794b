"""The checkout, and the folders of golden values and of real inputs beside it."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = Path(os.environ.get("LIT_GOLDEN", ROOT.parent / "shared" / "golden"))
DATA = Path(os.environ.get("LIT_DATA", ROOT.parent / "shared" / "data"))
WORLDS = Path(os.environ.get("LIT_WORLDS", DATA / "sweepweave"))
"""Folder of real SweepWeave files, which are not ours to ship."""
LIGHT = ROOT / "tests" / "data" / "sweepweave_light.json"
"""A small SweepWeave file of our own."""
PRETRAINED = Path(os.environ["LIT_PRETRAINED"]) if "LIT_PRETRAINED" in os.environ else None
"""Folder of real pretrained models."""
PRETRAINED_MAKER = ROOT.parent / "shared" / "tools" / "pretrained.py"
"""Program that makes them in a folder where no hub is reached."""
EARLIER = ROOT / "tests" / "data" / "old_names"
"""Checkpoints and configurations that the release before wrote."""
