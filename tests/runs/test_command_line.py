"""Checkpoints on the command line, and what a step logs."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml

from lit_narrative.cli.main import main
from lit_narrative.errors import UserError
from tests.runs.jobs import cycle, difference, weights

SMALL = ("--data.train_size=16", "--data.val_size=16", "--data.test_size=16", "--data.state_worlds=16")
QUIET = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.logger=false")
GRPO = (
    "--model.num_generations=4",
    "--model.micro_batch_size=8",
    "--data.batch_size=4",
    "--trainer.accumulate_grad_batches=2",
    "--trainer.limit_train_batches=4",
    "--model.sampling.max_new_tokens=128",
)


def fit(folder: Path, policy: Path, *args: str) -> None:
    """GRPO from the command line, two rollout batches an epoch."""
    root = f"--trainer.default_root_dir={folder}"
    main(["fit", "--config", "storyworld/grpo", root, f"--model.model={policy}", *SMALL, *QUIET, *GRPO, *args])


@pytest.mark.slow
def test_a_run_resumes_and_is_tested_when_what_it_started_from_is_gone(tmp_path: Path, policy: Path) -> None:
    start = tmp_path / "start.ckpt"
    shutil.copy(policy, start)
    fit(tmp_path / "whole", start, "--trainer.max_epochs=2")
    fit(tmp_path / "run", start, "--trainer.max_epochs=1")
    start.unlink()
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    fit(tmp_path / "run", start, "--trainer.max_epochs=2", f"--ckpt_path={last}", "--data.corpus_seed=0")
    states = [weights_of(tmp_path / name) for name in ("whole", "run")]
    assert difference(*states) < 1e-6
    folder = tmp_path / "test"
    settings = ("--model.class_path=GRPOModule", "--model.rewards={valid_json: 1}", "--data.corpus_seed=5")
    main(
        [
            *("test", "--config", "storyworld/test", f"--trainer.default_root_dir={folder}", f"--ckpt_path={last}"),
            *(*settings, f"--model.model={start}", "--trainer.callbacks.samples=8", *SMALL[:3], *QUIET),
        ]
    )
    assert (folder / "verifiers" / "test.json").is_file()
    assert not (folder / "tokenizer").exists()  # the checkpoint brings its own


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """The weights at the end of a run."""
    state: dict[str, torch.Tensor] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return state


def test_a_policy_that_only_imitated_can_be_tested_as_one_that_is_rewarded(tmp_path: Path, policy: Path) -> None:
    settings = ("--model.class_path=GRPOModule", "--model.rewards={valid_json: 1}", f"--ckpt_path={policy}")
    root = f"--trainer.default_root_dir={tmp_path}"
    samples = "--trainer.callbacks.samples=8"
    main(["test", "--config", "storyworld/test", root, *settings, samples, *SMALL[:3], *QUIET])
    assert (tmp_path / "verifiers" / "test.json").is_file()


def test_a_cycle_may_not_end_within_a_rollout_batch(tmp_path: Path, policy: Path) -> None:
    with pytest.raises(UserError, match="a multiple of that"):
        cycle(tmp_path, policy, limit_train_batches=12)


def test_the_shipped_cycle_is_a_whole_number_of_rollout_batches() -> None:
    for name in ("grpo", "cycle"):
        config = yaml.safe_load(Path(f"configs/storyworld/{name}.yaml").read_text())
        rows = config["data"]["init_args"]["batch_size"] * config["model"]["init_args"]["num_generations"]
        micro = rows // config["model"]["init_args"]["micro_batch_size"]
        assert config["trainer"]["limit_train_batches"] % micro == 0
        assert micro % config["trainer"]["accumulate_grad_batches"] == 0


def test_what_is_logged_is_of_the_whole_step(tmp_path: Path, policy: Path) -> None:
    kept = []
    for parts in (1, 4):
        one_pass = {"max_epochs": 1, "limit_train_batches": 2 * parts, "accumulate_grad_batches": parts}
        logged = cycle(tmp_path / str(parts), policy, micro_batch_size=16 // parts, num_iterations=1, **one_pass)
        kept.append({name: float(value) for name, value in logged.callback_metrics.items()})
    assert weights(tmp_path / "1", 2).keys() == weights(tmp_path / "4", 2).keys()
    for name in ("loss", "kl", "entropy", "reward", "clip_ratio/region_mean"):
        assert kept[0][name] == pytest.approx(kept[1][name], abs=1e-5), name
    assert kept[0]["entropy"] > 0
