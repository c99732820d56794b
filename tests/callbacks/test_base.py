"""Images reach the loggers that show them: what W&B offline and TensorBoard have on disk."""

import io
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from PIL import Image

from lit_narrative.callbacks.base import show_images, shows_images
from lit_narrative.callbacks.policy_states import draw_features
from tests.runs.jobs import trainer

PIXELS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def png() -> bytes:
    target = io.BytesIO()
    Image.fromarray(PIXELS).save(target, "png")
    return target.getvalue()


@pytest.mark.usefixtures("fresh_wandb")
def test_wandb_offline_has_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    runner = trainer(tmp_path, logger=WandbLogger(save_dir=tmp_path, project="tests", offline=True))
    try:
        show_images(runner, {"circuits/parts": png()})
    finally:
        wandb.finish()
    (file,) = tmp_path.glob("wandb/offline-run-*/files/media/images/circuits/parts_*.png")
    assert np.array_equal(np.asarray(Image.open(file)), PIXELS)


def test_tensorboard_has_the_image(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra 'tensorboard' is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    runner = trainer(tmp_path, logger=[CSVLogger(tmp_path), TensorBoardLogger(tmp_path, name="events")])
    assert len(shows_images(runner)) == 1
    show_images(runner, {"cycle/features": png()})
    runner.loggers[1].finalize("success")
    events = EventAccumulator(str(tmp_path / "events" / "version_0"))
    events.Reload()
    (shown,) = events.Images("cycle/features")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(shown.encoded_image_string))), PIXELS)


def test_the_figure_of_features_is_drawn_where_a_readout_is_undefined() -> None:
    found = {"density": [0.5, 0.0, 0.25], "readout": {"sae": 0.7, "raw": None, "random_encoder": 0.55}}
    drawn = Image.open(io.BytesIO(draw_features(found)))
    assert drawn.format == "PNG" and drawn.width > drawn.height > 100
