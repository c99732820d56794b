"""A killed RL run goes on exactly: value head, entropy control, references that follow, replaced groups."""

import multiprocessing
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_narrative.lm.load import Lora
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.lm.turns import TurnSettings
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.rl.loss_settings import LossSettings
from lit_narrative.rl.reference import ReferenceSettings
from tests.helpers import TinyTask, sizes, tokenizer_folder, trainer
from tests.runs.jobs import difference, weights
from tests.runs.test_resume import ROUNDING, KillAt

TALE = str(Path(__file__).parents[1] / "data" / "grammars" / "tale.json")
FOLLOWS = ReferenceSettings(sync_ref_model=True, ref_model_sync_steps=3)
VARIANTS: dict[str, dict[str, Any]] = {
    "ppo": {
        "advantage": "gae",
        "loss": LossSettings("dapo", beta=0.1, use_adaptive_entropy=True, entropy_target=5.69, entropy_coef=0.5),
        "reference": FOLLOWS,
    },
    "adapters": {
        "lora": Lora(r=2),
        "loss": LossSettings("grpo", "sequence", top_entropy_quantile=0.5, beta=0.1),
        "reference": FOLLOWS,
        "dynamic_sampling": 2,
        "sampling": SamplingParams(24, grammar=TALE),
        "turns": TurnSettings("critic", observation_tokens=16),
        "curriculum": 0.5,
    },
}
STEPS = 16  # two epochs of two rollout batches of two passes of two steps


def learn(folder: Path, variant: str, callbacks: Sequence[Callback] = (), ckpt_path: Path | None = None) -> GRPOModule:
    """Two rollout batches an epoch, 16 completions each; a checkpoint after every optimizer step."""
    seed_everything(0, verbose=False)
    module = GRPOModule(
        model=sizes(layers=2),
        tokenizer=tokenizer_folder(folder),
        rewards={"low": 1.0},
        num_generations=4,
        micro_batch_size=4,
        num_iterations=2,
        lr=2e-2,
        **{"sampling": SamplingParams(8), **VARIANTS[variant]},
    )
    saver = ModelCheckpoint(folder / "checkpoints", save_top_k=-1, every_n_train_steps=1)
    options = {"max_epochs": 2, "accumulate_grad_batches": 2, "enable_checkpointing": True}
    trainer(folder, saver, *callbacks, **options).fit(module, TinyTask(), ckpt_path=ckpt_path)
    return module


@pytest.fixture(scope="module", params=VARIANTS)
def unbroken(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("unbroken")
    module = learn(folder, request.param)
    if request.param == "ppo":
        assert 0.5 < module.entropy.weight < 0.5 + STEPS * 0.005  # it went up and down
    return request.param, folder


@pytest.mark.parametrize("step", [pytest.param(3, marks=pytest.mark.slow), 11])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path: Path, unbroken: tuple[str, Path], step: int) -> None:
    variant, whole = unbroken
    process = multiprocessing.get_context("fork").Process(target=learn, args=(tmp_path, variant, [KillAt(step)]))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    last = max((tmp_path / "checkpoints").iterdir(), key=lambda path: int(path.stem.split("step=")[1]))
    learn(tmp_path / "resumed", variant, ckpt_path=last)
    expected, found = checkpoint(whole), checkpoint(tmp_path / "resumed")
    assert difference(expected["state_dict"], found["state_dict"]) < ROUNDING
    assert found["rollouts"]["tokens"] == expected["rollouts"]["tokens"]
    assert found["rollouts"]["entropy"] == pytest.approx(expected["rollouts"]["entropy"])


def test_the_references_have_moved(unbroken: tuple[str, Path]) -> None:
    _, whole = unbroken
    first, last = weights(whole, 1), weights(whole, STEPS)
    moved = {name for name in first if "reference" in name and not torch.equal(first[name], last[name])}
    assert moved


def checkpoint(folder: Path) -> dict[str, Any]:
    (path,) = (folder / "checkpoints").glob(f"*step={STEPS}.ckpt")
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content
