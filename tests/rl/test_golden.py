"""Losses, gradients, advantages and log-probabilities that TRL 1.16.0 gave for the same tensors."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config

from lit_narrative.lm.load import build_lm
from lit_narrative.lm.logprobs import completion_batch, score_completions, to_rows
from lit_narrative.modules.rollout_metrics import rollout_metrics
from lit_narrative.rl.advantages import group_advantages, weighted_sum
from lit_narrative.rl.losses import LossOutput, LossSettings, Window, policy_loss

pytestmark = pytest.mark.golden

FILE = Path(os.environ.get("LIT_GOLDEN", Path(__file__).parents[3] / "shared" / "golden"), "grpo.pt")
ABSENT = [pytest.param("absent", marks=pytest.mark.skip(f"no golden values at {FILE.parent}; set LIT_GOLDEN"))]
GOLDEN: dict[str, Any] = torch.load(FILE, weights_only=True) if FILE.exists() else {}
SWITCHED_OFF = {
    "importance_sampling_level": "token",
    "delta": None,
    "is_ratio": None,
    "top_entropy_quantile": 1.0,
    "off_policy_mask_threshold": None,
    "entropy_coef": 0.0,
    "advantages": "advantages",
}


def ours(config: dict[str, Any]) -> bool:
    """Whether a configuration asks for nothing but what `policy_loss` does."""
    plain_kl = config["beta"] == 0 or not config["use_bias_correction_kl"]
    known = config["loss_type"] in ("grpo", "dr_grpo", "dapo")
    return known and plain_kl and all(config[name] == value for name, value in SWITCHED_OFF.items())


def entries(name: str, wanted: Any) -> list[Any]:
    return [entry["id"] for entry in GOLDEN[name] if wanted(entry)] if GOLDEN else ABSENT


def entry(name: str, identity: str) -> Any:
    (found,) = [entry for entry in GOLDEN[name] if entry["id"] == identity]
    return found


def loss(config: dict[str, Any], logprobs: torch.Tensor) -> LossOutput:
    """Our loss in TRL's terms: it divides by accumulation (grpo, dr_grpo), or by its share of the tokens (dapo)."""
    tensors = GOLDEN["tensors"]
    training = config["mode"] == "train"
    accumulation = config["current_gradient_accumulation_steps"] if training else 1
    share = accumulation / config["steps_per_generation"] if training else 1
    high = config["epsilon"] if config["epsilon_high"] is None else config["epsilon_high"]
    return policy_loss(
        logprobs,
        tensors["old"] if config["old"] else logprobs.detach(),
        tensors["ref"] if config["beta"] else None,
        tensors["advantages"],
        tensors[config["mask"]].bool(),
        Window(len(logprobs) * accumulation, int(config["num_items_in_batch"] * share)),
        LossSettings(config["loss_type"], config["epsilon"], high, config["beta"], config["max_completion_length"]),
    )


@pytest.mark.parametrize("identity", entries("loss_cases", lambda case: ours(case["config"])))
def test_loss_and_gradient(identity: str) -> None:
    case = entry("loss_cases", identity)
    config, logprobs = case["config"], GOLDEN["tensors"]["new"].clone().requires_grad_()
    output = loss(config, logprobs)
    assert output.loss.item() == pytest.approx(case["loss"], rel=1e-6)
    (gradient,) = torch.autograd.grad(output.loss, logprobs)
    torch.testing.assert_close(gradient, case["grad_new"], rtol=1e-6, atol=1e-12)
    tokens = GOLDEN["tensors"][config["mask"]].sum()
    assert float(output.clipped_low / tokens) == pytest.approx(case["metrics"]["clip_ratio/low_mean"], abs=1e-6)
    assert float(output.clipped_high / tokens) == pytest.approx(case["metrics"]["clip_ratio/high_mean"], abs=1e-6)
    if config["beta"]:
        assert float(output.kl / tokens) == pytest.approx(case["metrics"]["kl"], rel=1e-6)


@pytest.mark.parametrize(
    "identity", entries("advantage_cases", lambda case: case["multi_objective_aggregation"] == "sum_then_normalize")
)
def test_advantages_and_metrics(identity: str) -> None:
    case = entry("advantage_cases", identity)
    rewards = case["rewards_per_func"]
    weights = torch.tensor(case["reward_weights"] or [1.0] * rewards.shape[1])
    totals = weighted_sum(rewards, weights)
    advantages = group_advantages(totals, case["num_generations"], case["scale_rewards"])
    torch.testing.assert_close(advantages, case["advantages"], atol=1e-5, rtol=0)
    columns = {f"r{place}": column for place, column in enumerate(rewards.T)}
    found = rollout_metrics(columns, totals, torch.ones(8), torch.ones(8), case["num_generations"])
    named = ("reward", "frac_reward_zero_std")
    expected = {name: value for name, value in case["metrics"].items() if name.startswith(named)}
    assert len(expected) >= 2 * rewards.shape[1] + 3
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("temperature", list(GOLDEN["e2e"]["temperatures"]) if GOLDEN else ABSENT)
def test_logprobs_and_entropy_of_a_model(temperature: float) -> None:
    """The four rows whose prompts TRL does not pad."""
    given = GOLDEN["e2e"]
    sizes = {name: given["config"][name] for name in ("vocab_size", "n_layer", "n_embd", "n_head", "n_positions")}
    lm = build_lm(GPT2Config(**sizes)).eval()
    lm.load_state_dict(given["policy_state"])
    rows = given["prompt_mask"].all(1).nonzero().squeeze(1)
    lengths = given["completion_mask"][rows].sum(1)
    completions = [ids[:n] for ids, n in zip(given["completion_ids"][rows], lengths, strict=True)]
    with torch.no_grad():
        scores = score_completions(
            lm, completion_batch(list(given["prompt_ids"][rows]), completions), temperature=temperature
        )
    expected, mask = given["temperatures"][temperature], given["completion_mask"][rows].bool()
    assert len(rows) == 4
    torch.testing.assert_close(to_rows(scores.logprobs, mask), expected["new_logps"][rows], atol=1e-5, rtol=0)
    torch.testing.assert_close(to_rows(scores.entropy, mask), expected["entropies"][rows], atol=1e-5, rtol=0)
