"""What TRL 1.16.0 gave for the same tensors and the same tiny model: every case that the file of golden values holds.

Of its helper vectors, ``repeat_sampler`` (the order of row numbers that TRL's sampler emits) has no counterpart: ours
samples the completions of a prompt together and iterates over the window, without row numbers.
"""

from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

import pytest
import torch
from transformers import GPT2Config

from lit_narrative.lm.load import build_lm
from lit_narrative.lm.logprobs import completion_batch, score_completions, to_rows
from lit_narrative.rl.advantages import score_advantages
from lit_narrative.rl.loss_settings import LossSettings
from lit_narrative.rl.losses import LossInputs, LossOutput, StepTotals, entropy_threshold, off_policy_mask, policy_loss
from lit_narrative.rl.metrics import rollout_metrics
from lit_narrative.rl.ratios import importance_ratio
from lit_narrative.rl.rewards.penalties import Repetition, SoftOverlong
from lit_narrative.rl.surrogates import SurrogateInputs, gamma_weights
from tests.paths import GOLDEN

pytestmark = pytest.mark.golden

FILE = GOLDEN / "grpo.pt"
GOLDEN: dict[str, Any] = torch.load(FILE, weights_only=True) if FILE.exists() else {}
NOT_OF_THE_LOSS = {"entropy_coef"}  # the module logs the weight that it passes in


class AsTRL(LossSettings):
    """Settings unchecked: TRL ignores some combinations and computes others that ours refuses."""

    def __post_init__(self) -> None:
        pass


def cases(found: Callable[[], Iterable[Any]], name: Callable[[int, Any], str]) -> Any:
    """One pytest case for each entry, or one skipped case."""
    if not GOLDEN:
        return [pytest.param(None, marks=pytest.mark.skip(f"no golden values at {FILE.parent}; set LIT_GOLDEN"))]
    return [pytest.param(case, id=name(place, case)) for place, case in enumerate(found())]


def described(*keys: str) -> Callable[[int, Any], str]:
    return lambda place, case: f"{place}:" + "/".join(str(case[key]) for key in keys)


def by_id(_: int, case: Any) -> str:
    return case["id"]


def settings_of(config: dict[str, Any]) -> LossSettings:
    values = {item.name: config[item.name] for item in fields(LossSettings) if item.name in config}
    for name in ("sapo_temperature_neg", "sapo_temperature_pos"):
        if name in values:  # which TRL holds in single precision
            values[name] = float(torch.tensor(values[name], dtype=torch.float32))
    return AsTRL(**values)


def inputs_of(config: dict[str, Any], logprobs: torch.Tensor, entropy: torch.Tensor) -> LossInputs:
    tensors = GOLDEN["tensors"]

    def named(key: str) -> torch.Tensor | None:
        return None if config[key] is None else tensors[config[key]]

    mask = tensors[config["mask"]].bool()
    keep = None
    if config["top_entropy_quantile"] < 1:
        keep = entropy.detach() >= entropy_threshold(entropy[mask], config["top_entropy_quantile"])
    return LossInputs(
        logprobs,
        named("old"),
        mask,
        tensors[config["advantages"]],
        tensors["ref"] if config["beta"] else None,
        entropy,
        named("sampling"),
        named("is_ratio"),
        keep=keep,
    )


def rows_of(inputs: LossInputs, rows: slice) -> LossInputs:
    return LossInputs._make(None if value is None else value[rows] for value in inputs)


def local_totals(inputs: LossInputs, config: dict[str, Any]) -> StepTotals:
    """The totals of a step of these rows and nothing else."""
    acting = inputs.mask if inputs.keep is None else inputs.mask & inputs.keep
    return StepTotals(len(inputs.mask), int(inputs.mask.sum()), int(acting.sum()), config["max_completion_length"])


def trl_totals(inputs: LossInputs, config: dict[str, Any]) -> StepTotals:
    """TRL's divisors as totals: it divides by accumulation, or by its share of the generation batch's tokens."""
    training = config["mode"] == "train"
    accumulation = config["current_gradient_accumulation_steps"] if training else 1
    local = local_totals(inputs, config)
    tokens = accumulation * local.tokens
    if config["loss_type"] in ("dapo", "cispo", "vespo"):
        generated = config["num_items_in_batch"] * accumulation
        tokens, rest = divmod(generated, config["steps_per_generation"] if training else 1)
        assert rest == 0
    return StepTotals(
        accumulation * local.rows, tokens, accumulation * local.entropy_tokens, local.max_completion_length
    )


def assert_metrics(output: LossOutput, expected: dict[str, float], tolerance: float) -> None:
    found = {name: float(value) for name, value in {**output.sums, **output.min_max}.items()}
    expected = {name: value for name, value in expected.items() if name not in NOT_OF_THE_LOSS}
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("case", cases(lambda: GOLDEN["loss_cases"], by_id))
def test_loss_gradient_and_metrics(case: Any) -> None:
    config = case["config"]
    logprobs = GOLDEN["tensors"]["new"].clone().requires_grad_()
    entropy = GOLDEN["tensors"]["entropies"].clone().requires_grad_()
    inputs, settings = inputs_of(config, logprobs, entropy), settings_of(config)
    output = policy_loss(inputs, trl_totals(inputs, config), settings, entropy_coef=config["entropy_coef"])
    assert output.loss.item() == pytest.approx(case["loss"], rel=1e-6)
    gradient, of_entropy = torch.autograd.grad(output.loss, (logprobs, entropy), allow_unused=True)
    torch.testing.assert_close(gradient, case["grad_new"], rtol=1e-6, atol=1e-12)
    assert float(gradient.norm()) == pytest.approx(case["grad_new_norm"], rel=1e-6)
    if case["grad_entropies"] is None:
        assert of_entropy is None
    else:
        torch.testing.assert_close(of_entropy, case["grad_entropies"], rtol=1e-6, atol=1e-12)
    whole = policy_loss(inputs, local_totals(inputs, config), settings, entropy_coef=config["entropy_coef"])
    assert len(case["metrics"]) >= 1
    assert_metrics(whole, case["metrics"], 1e-6)


def window_name(place: int, case: Any) -> str:
    return described("loss_type", "importance_sampling_level")(place, case["config"])


@pytest.mark.parametrize("case", cases(lambda: GOLDEN["windows"], window_name))
def test_steps_of_four_micro_batches(case: Any) -> None:
    config = case["config"]
    logprobs = GOLDEN["tensors"]["new"].clone().requires_grad_()
    inputs = inputs_of(config, logprobs, GOLDEN["tensors"]["entropies"])
    parts = [rows_of(inputs, slice(start, start + 2)) for start in range(0, 8, 2)]
    exact, settings = local_totals(inputs, config), settings_of(config)
    local = config["loss_type"] == "bnpo"  # TRL divides by the tokens of the micro-batch, ours by those of the step
    divisors = [trl_totals(part, config) if local else exact for part in parts]
    losses = [policy_loss(part, totals, settings).loss for part, totals in zip(parts, divisors, strict=True)]
    assert [loss.item() for loss in losses] == pytest.approx(case["losses"], rel=1e-6)
    assert torch.stack(losses).sum().item() == pytest.approx(case["total"], rel=1e-6)
    (gradient,) = torch.autograd.grad(torch.stack(losses).sum(), logprobs)
    torch.testing.assert_close(gradient, case["grad_new"], rtol=1e-6, atol=1e-12)
    whole = policy_loss(inputs, exact, settings).loss
    if local:
        assert whole.item() != pytest.approx(case["total"], rel=1e-3)
        settings = settings_of({**config, "loss_type": "dapo"})
        assert whole.item() == policy_loss(inputs, exact, settings).loss.item()
    else:
        assert whole.item() == pytest.approx(case["total"], rel=1e-6)
        (gradient,) = torch.autograd.grad(whole, logprobs)
        torch.testing.assert_close(gradient, case["grad_new"], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("case", cases(lambda: GOLDEN["advantage_cases"], by_id))
def test_advantages_and_metrics(case: Any) -> None:
    rewards, size = case["rewards_per_func"], case["num_generations"]
    scale, aggregation = case["scale_rewards"], case["multi_objective_aggregation"]
    weights = torch.tensor(case["reward_weights"] or [1.0] * rewards.shape[1])
    totals, advantages = score_advantages(rewards, weights, size, scale=scale, aggregation=aggregation)
    torch.testing.assert_close(advantages, case["advantages"], atol=1e-5, rtol=0)
    columns = {f"r{place}": column for place, column in enumerate(rewards.T)}
    ones = torch.ones(len(rewards))
    found = rollout_metrics(columns, totals, ones, ones, size, scale=scale, aggregation=aggregation)
    named = ("reward", "frac_reward_zero_std")
    expected = {name: value for name, value in case["metrics"].items() if name.startswith(named)}
    assert len(expected) >= 2 * rewards.shape[1] + 3
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("case", cases(lambda: GOLDEN["is_cases"], described("mode", "clip_min", "clip_max")))
def test_importance_ratio(case: Any) -> None:
    mask = case["mask"].bool()
    ratio, metrics = importance_ratio(
        case["trainer_logps"], case["sampler_logps"], mask, case["mode"], case["clip_min"], case["clip_max"]
    )
    torch.testing.assert_close(ratio, case["ratio"], rtol=1e-6, atol=1e-6)
    assert len(case["metrics"]) == 5
    assert {name: float(value) for name, value in metrics.items()} == pytest.approx(case["metrics"], rel=1e-6)


# --- a model ----------------------------------------------------------------------------------------------------------


def policy() -> Any:
    given = GOLDEN["e2e"]
    sizes = {name: given["config"][name] for name in ("vocab_size", "n_layer", "n_embd", "n_head", "n_positions")}
    lm = build_lm(GPT2Config(**sizes)).eval()
    lm.load_state_dict(given["policy_state"])
    return lm


def unpadded() -> torch.Tensor:
    return GOLDEN["e2e"]["prompt_mask"].all(1).nonzero().squeeze(1)


def ours(lm: Any, rows: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, T) log-probabilities and entropies as this package scores them."""
    given = GOLDEN["e2e"]
    mask = given["completion_mask"][rows].bool()
    prompts = [ids[on.bool()] for ids, on in zip(given["prompt_ids"][rows], given["prompt_mask"][rows], strict=True)]
    completions = [ids[on] for ids, on in zip(given["completion_ids"][rows], mask, strict=True)]
    scores = score_completions(lm, completion_batch(prompts, completions), temperature=temperature, entropy=True)
    return to_rows(scores.logprobs, mask), to_rows(scores.entropy, mask)


def as_trl(lm: Any, rows: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The same as TRL scores them: positions count the padding on the left too."""
    given = GOLDEN["e2e"]
    ids = torch.cat([given["prompt_ids"], given["completion_ids"]], 1)[rows]
    mask = torch.cat([given["prompt_mask"], given["completion_mask"]], 1)[rows]
    positions = torch.arange(ids.shape[1])[None]
    logits = lm(input_ids=ids, attention_mask=mask, position_ids=positions).logits / temperature
    start = given["prompt_ids"].shape[1]
    logprobs = logits[:, start - 1 : -1].log_softmax(-1)
    entropy = torch.special.entr(logprobs.detach().exp()).sum(-1)
    scored = logprobs.gather(-1, ids[:, start:, None]).squeeze(-1)
    return scored * mask[:, start:], entropy * mask[:, start:]


def run_name(place: int, run: Any) -> str:
    sampled = "old" if run["old"] else "on-policy"
    return f"{place}:{run['loss_type']}/{run['importance_sampling_level']}/{run['temperature']}/{sampled}"


@pytest.mark.parametrize("run", cases(lambda: GOLDEN["e2e"]["runs"], run_name))
def test_a_step_of_a_model(run: Any) -> None:
    """Two micro-batches of one optimizer step: rows without padding scored by ours, those with padding as TRL did."""
    given, lm = GOLDEN["e2e"], policy()
    known = given["temperatures"][run["temperature"]]
    mask = given["completion_mask"].bool()
    totals = StepTotals(8, int(mask.sum()), int(mask.sum()), GOLDEN["meta"]["max_completion_length"])
    plain = unpadded()
    rest = torch.tensor([row for row in range(8) if row not in plain.tolist()])
    outputs = []
    for score, rows in ((ours, plain), (as_trl, rest)):
        logprobs, entropy = score(lm, rows, run["temperature"])
        old = known["old_logps"][rows] if run["old"] else None
        inputs = LossInputs(logprobs, old, mask[rows], given["advantages"][rows], known["ref_logps"][rows], entropy)
        outputs.append(policy_loss(inputs, totals, settings_of(run)))
    loss = outputs[0].loss + outputs[1].loss
    assert loss.item() == pytest.approx(run["loss"], abs=1e-5)
    loss.backward()
    norms = {name: float(parameter.grad.norm()) for name, parameter in lm.named_parameters()}
    assert norms == pytest.approx(run["grad_norms"], rel=1e-4)
    assert torch.tensor(list(norms.values())).norm().item() == pytest.approx(run["grad_norm"], rel=1e-4)
    sums = {name: value + outputs[1].sums[name] for name, value in outputs[0].sums.items()}
    min_max = {
        name: (torch.minimum if name.endswith("min") else torch.maximum)(value, outputs[1].min_max[name])
        for name, value in outputs[0].min_max.items()
    }
    assert_metrics(LossOutput(loss, sums, min_max), run["metrics"], 1e-5)


@pytest.mark.parametrize("temperature", cases(lambda: GOLDEN["e2e"]["temperatures"], lambda _, case: str(case)))
def test_logprobs_and_entropy_of_a_model(temperature: Any) -> None:
    known, rows, lm = GOLDEN["e2e"]["temperatures"][temperature], unpadded(), policy()
    assert len(rows) == 4
    with torch.no_grad():
        logprobs, entropy = ours(lm, rows, temperature)
        everywhere, _ = as_trl(lm, torch.arange(8), temperature)
    torch.testing.assert_close(logprobs, known["new_logps"][rows], atol=1e-5, rtol=0)
    torch.testing.assert_close(entropy, known["entropies"][rows], atol=1e-5, rtol=0)
    torch.testing.assert_close(everywhere, known["new_logps"], atol=1e-5, rtol=0)


# --- helper vectors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", cases(lambda: [GOLDEN["extras"]["soft_overlong"]], lambda *_: "defaults"))
def test_soft_overlong(given: Any) -> None:
    reward = SoftOverlong(given["max_completion_len"], given["soft_punish_cache"])
    assert [reward.penalty(length) for length in given["lengths"]] == pytest.approx(given["rewards"])


@pytest.mark.parametrize("given", cases(lambda: [GOLDEN["extras"]["repetition"]], lambda *_: "defaults"))
def test_repetition(given: Any) -> None:
    reward = Repetition(given["ngram_size"], given["max_penalty"])
    found = [reward.penalty(torch.tensor(ids, dtype=torch.long)) for ids in given["completion_ids"]]
    assert found == pytest.approx(given["rewards"])


@pytest.mark.parametrize("given", cases(lambda: [GOLDEN["extras"]["off_policy_mask"]], lambda *_: "defaults"))
def test_off_policy_mask(given: Any) -> None:
    tensors = GOLDEN["tensors"]
    kept = off_policy_mask(
        tensors["advantages"][:, None], tensors["new"], tensors["old"], tensors["mask"].bool(), given["threshold"]
    )
    assert kept.equal(given["keep"].bool())


@pytest.mark.parametrize("expected", cases(lambda: [GOLDEN["extras"]["gamma_weights"]], lambda *_: "defaults"))
def test_gamma_weights(expected: Any) -> None:
    new, old, mask = (GOLDEN["tensors"][name] for name in ("new", "old", "mask"))
    advantages = GOLDEN["tensors"]["advantages"][:, None]
    step = SurrogateInputs(new, old, new - old, (new - old).exp(), advantages, mask.bool(), None)
    torch.testing.assert_close(gamma_weights(step, LossSettings("vespo")), expected, rtol=1e-6, atol=0)
