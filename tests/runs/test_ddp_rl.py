"""Every way to learn gives the same step on two processes as on one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_narrative.lm.load import Lora
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.lm.turns import TurnSettings
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.rl.gae import ValueSettings
from lit_narrative.rl.loss_settings import LossSettings
from lit_narrative.rl.reference import ReferenceSettings
from lit_narrative.rl.rewards.runner import ScoringSettings
from tests.helpers import TinyTask, others_slow, sizes, tokenizer_folder, trainer
from tests.runs.jobs import difference, weights

pytestmark = pytest.mark.ddp
TALE = str(Path(__file__).parents[1] / "data" / "grammars" / "tale.json")
FOLLOWS = ReferenceSettings(sync_ref_model=True, ref_model_sync_steps=1, ref_model_mixup_alpha=0.5)
VARIANTS: dict[str, dict[str, Any]] = {
    "dapo": {"loss": LossSettings("dapo", beta=0.1), "dynamic_sampling": 2, "curriculum": 0.5, "reference": FOLLOWS},
    "gspo": {"loss": LossSettings("grpo", "sequence"), "scale_rewards": "batch", "num_iterations": 2},
    "sentences": {"loss": LossSettings("cispo", "sentence"), "num_iterations": 2},
    "ppo": {
        "advantage": "gae",
        "value": ValueSettings(lam=0.9),
        "loss": LossSettings(kl_in_reward=True, kl_estimator="k1"),
    },
    "entropy": {"loss": LossSettings(top_entropy_quantile=0.4, use_adaptive_entropy=True, entropy_target=9.0)},
    "adapters": {"lora": Lora(r=2), "reference": FOLLOWS, "loss": LossSettings("sapo", beta=0.1)},
    "turns": {
        "sampling": SamplingParams(24, grammar=TALE),
        "turns": TurnSettings("critic", 2, 16),
        "loss": LossSettings("dr_grpo", beta=0.1),
    },
    "scored apart": {"scoring": ScoringSettings(workers=1, independent=("low",)), "generation_batch_size": 16},
}


class Plain(GRPOModule):
    """By stochastic gradient descent: AdamW would make a step of its size from a gradient that is all rounding."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=1.0)


def learn(folder: Path, variant: str, devices: int) -> dict[str, float]:
    """Three rollout batches of sixteen completions, one optimizer step a pass; the metrics of the last step."""
    seed_everything(0, verbose=False)
    module = Plain(
        model=sizes(layers=2),
        tokenizer=tokenizer_folder(folder),
        rewards={"low": 1.0},
        num_generations=4,
        micro_batch_size=4,
        **{"sampling": SamplingParams(10), **VARIANTS[variant]},
    )
    saver = ModelCheckpoint(folder / "checkpoints", save_top_k=-1, every_n_train_steps=1)
    options: dict[str, Any] = {"max_epochs": 3, "accumulate_grad_batches": 4 // devices, "enable_checkpointing": True}
    if devices > 1:
        options |= {"devices": devices, "strategy": "ddp_fork"}
    run = trainer(folder, saver, **options)
    run.fit(module, TinyTask(rows=4, batch_size=4 // devices))
    return {name: float(value) for name, value in run.callback_metrics.items()}


@pytest.mark.parametrize("variant", others_slow(VARIANTS, {"dapo", "ppo"}))
def test_two_processes_learn_what_one_learns(tmp_path: Path, variant: str) -> None:
    one, two = learn(tmp_path / "one", variant, 1), learn(tmp_path / "two", variant, 2)
    steps = 3 * VARIANTS[variant].get("num_iterations", 1)
    for step in (1, steps):
        assert difference(weights(tmp_path / "one", step), weights(tmp_path / "two", step)) < 1e-5
    assert difference(weights(tmp_path / "one", 1), weights(tmp_path / "one", steps)) > 1e-3
    assert one.keys() == two.keys()
    for name in one.keys() - {"step_time", "rewards_time"}:
        assert two[name] == pytest.approx(one[name], rel=1e-3, abs=1e-4), name
