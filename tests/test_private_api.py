"""Private functions of other libraries that the package leans on: a release that moves one fails here, by its name.

Each is called in one function of ours, named in the row.
"""

from importlib import import_module

import pytest
from lightning.pytorch import Trainer

from lit_narrative.progress import batches_begun, restart_step

PRIVATE = [
    # (our function that calls it, module, attribute)
    (
        "datamodules.base.TaskDataModule._each_once",
        "lightning.pytorch.overrides.distributed",
        "UnrepeatedDistributedSampler",
    ),
    ("progress.batches_begun", "lightning.pytorch.loops.progress", "_ReadyCompletedTracker.ready"),
    ("lm.load.blocks", "transformers.modeling_layers", "GradientCheckpointingLayer"),
    ("lm.kv_cache.plain_attention", "transformers", "PreTrainedModel._is_stateful"),
]


@pytest.mark.parametrize(("user", "module", "attribute"), PRIVATE, ids=[row[2] for row in PRIVATE])
def test_it_is_still_there(user: str, module: str, attribute: str) -> None:
    value = import_module(module)
    for name in attribute.split("."):
        assert hasattr(value, name), f"lit_narrative.{user} needs {module}.{attribute}, which this release lacks"
        value = getattr(value, name)


def test_lightnings_loops_count_batches_where_we_read_them() -> None:
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    assert batches_begun(trainer) == 0
    for _ in range(3):
        trainer.fit_loop.epoch_loop.batch_progress.increment_ready()
    assert batches_begun(trainer) == 3
    checkpoint = {"loops": {"fit_loop": trainer.fit_loop.state_dict()}}
    restart_step(checkpoint, accumulate=2)
    trainer.fit_loop.load_state_dict(checkpoint["loops"]["fit_loop"])
    assert batches_begun(trainer) == 2
