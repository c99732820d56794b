"""Every shipped way of GRPO makes the strict score of a supervised policy better, on prompts it has never seen.

The slow tests fit the shipped configurations through the command line, shortened, from one short warm start; about 4
minutes on one core:

    python3 run.py test tests/runs/test_grpo_configs.py -m slow
"""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lit_narrative.cli.main import main
from lit_narrative.lookup import shipped_configs

NAMES = [name for name in shipped_configs() if name.startswith("storyworld/grpo_")]
QUIET = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu")
SAMPLES = 512
HELD_OUT = (f"--data.val_size={SAMPLES}", "--data.train_size=8000")
ROLLOUT_BATCHES = 32


@pytest.fixture(scope="module")
def supervised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that has imitated the corpus for less long than the shipped warm start."""
    folder = tmp_path_factory.mktemp("sft")
    short = ("--trainer.max_steps=250", "--trainer.val_check_interval=250", "--trainer.limit_val_batches=0")
    main(["fit", "--config", "storyworld/sft", root(folder), *short, "--data.train_size=8000", *QUIET])
    return folder / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def before(supervised: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the verifiers say of it, on the prompts and random streams of every other policy here."""
    folder = tmp_path_factory.mktemp("before")
    main(["validate", "--config", NAMES[0], *settings(folder, supervised)])
    return verdict(folder)


def root(folder: Path) -> str:
    return f"--trainer.default_root_dir={folder}"


def settings(folder: Path, policy: Path) -> tuple[str, ...]:
    return (root(folder), f"--model.model={policy}", f"--trainer.callbacks.samples={SAMPLES}", *HELD_OUT, *QUIET)


def verdict(folder: Path) -> dict[str, Any]:
    """The summary of the held-out samples."""
    found: dict[str, Any] = json.loads((folder / "verifiers" / "val.json").read_text())
    return found


def settings_of(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(shipped_configs()[name].read_text())
    return found


def micro_batches(name: str) -> int:
    """Of one rollout batch, over all its passes."""
    config = settings_of(name)
    model = config["model"]["init_args"]
    rows = config["data"]["init_args"]["batch_size"] * model["num_generations"]
    assert rows % model["micro_batch_size"] == 0
    return int(rows // model["micro_batch_size"] * model.get("num_iterations", 1))


def logged(folder: Path, name: str) -> list[float]:
    """A column of the metrics, without the rows that lack it."""
    with (folder / "metrics.csv").open() as lines:
        return [float(row[name]) for row in csv.DictReader(lines) if row.get(name)]


def test_all_four_are_here() -> None:
    assert {name.removeprefix("storyworld/grpo_") for name in NAMES} >= {"dr_grpo", "gspo", "ppo", "lora"}


@pytest.mark.parametrize("name", NAMES)
def test_a_cycle_is_a_whole_number_of_rollout_batches(name: str) -> None:
    trainer = settings_of(name)["trainer"]
    assert trainer["limit_train_batches"] % micro_batches(name) == 0
    assert micro_batches(name) % trainer["accumulate_grad_batches"] == 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", NAMES)
def test_the_held_out_score_rises_beyond_its_interval(
    name: str, supervised: Path, before: dict[str, Any], tmp_path: Path
) -> None:
    limit = f"--trainer.limit_train_batches={ROLLOUT_BATCHES * micro_batches(name)}"
    main(["fit", "--config", name, *settings(tmp_path, supervised), "--trainer.max_epochs=1", limit])
    after = verdict(tmp_path)
    assert after["n"] == before["n"] == SAMPLES
    assert after["reward_ci"][0] > before["reward_ci"][1]
    assert after["unique"] > 0.95
    check_what_it_shows(name.removeprefix("storyworld/grpo_"), tmp_path, supervised)


def check_what_it_shows(kind: str, folder: Path, supervised: Path) -> None:
    """That the run was of the kind that its configuration is an example of."""
    if kind == "gspo":  # ratios leave 1 within a rollout batch, and a narrow range clips many
        assert max(logged(folder, "clip_ratio/region_mean")) > 0.1
    if kind == "ppo":  # the value head learns to tell what a text will be worth
        errors = logged(folder, "value_loss")
        assert sum(errors[-5:]) < sum(errors[:5]) / 2
    if kind == "lora":  # adapters alone have changed, and the reference has followed them
        started, ended = weights(supervised), weights(folder / "checkpoints" / "last.ckpt")
        bare = {name.replace("base_model.model.", "").replace("base_layer.", ""): name for name in ended}
        assert started and all(torch.equal(value, ended[bare[name]]) for name, value in started.items())
        for which in ("default", "reference"):
            assert all(value.any() for name, value in ended.items() if f"lora_B.{which}" in name)


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(checkpoint, weights_only=True)["state_dict"]
    return state
