"""Negative log-likelihood of completions under a model, and the distance of one model from another."""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from lit_narrative.errors import UserError
from lit_narrative.lm.load import base_lm, max_positions
from lit_narrative.lm.logprobs import completion_batch, score_completions
from lit_narrative.lm.tokenizer import encode_prompts
from lit_narrative.text import unicode_text
from lit_narrative.views import Rollout

_BATCH = 32  # completions read side by side
Tokens = Sequence[int] | torch.Tensor


def external_nll(lm: nn.Module, tokenizer: PreTrainedTokenizerBase, rollouts: Sequence[Rollout]) -> tuple[float, int]:
    """Negative log-likelihood in nats of the completions' tokens, added up, and how many tokens these are.

    Prompts are read and not scored. The texts are tokenised again, as the external model may have another tokenizer; a
    prompt that leaves no room loses its beginning.

    Args:
        lm: the external model, in evaluation mode.
        tokenizer: the tokenizer of ``lm``.
        rollouts: completions of any model.
    """
    limit = max_positions(lm)
    prompts: list[list[int]] = []
    completions: list[list[int]] = []
    rows = encode_prompts(tokenizer, [rollout.prompt for rollout in rollouts])
    for rollout, prompt in zip(rollouts, rows, strict=True):
        completion = tokenizer(unicode_text(rollout.text), add_special_tokens=False)["input_ids"][: limit and limit - 1]
        if completion and prompt:
            prompts.append(prompt[max(len(prompt) + len(completion) - limit, 0) :] if limit else prompt)
            completions.append(completion)
    return _nll(lm, prompts, completions)


def sampled_nll(lm: nn.Module, rollouts: Sequence[Rollout], temperature: float = 1.0) -> tuple[float, int]:
    """As `external_nll`, under a model that shares the author's tokenizer: of the sampled ids, the end included.

    Args:
        lm: in evaluation mode.
        rollouts: completions.
        temperature: logits are divided by it.
    """
    prompts, completions = [row.prompt_ids for row in rollouts], [row.completion_ids for row in rollouts]
    return _nll(lm, prompts, completions, temperature, [row.injection for row in rollouts])


@torch.no_grad()
def _nll(
    lm: nn.Module,
    prompts: Sequence[Tokens],
    completions: Sequence[Tokens],
    temperature: float = 1.0,
    injections: Sequence[torch.Tensor | None] = (),
) -> tuple[float, int]:
    device, total = next(lm.parameters()).device, 0.0
    for start in range(0, len(prompts), _BATCH):
        part = slice(start, start + _BATCH)
        batch = completion_batch(prompts[part], completions[part], injections[part]).to(device)
        total -= float(score_completions(lm, batch, temperature=temperature).logprobs.sum())
    return total, sum(map(len, completions))


def mean_log_ratio(base: nn.Module, rollouts: Sequence[Rollout], temperature: float = 1.0) -> float:
    """Mean of log p(token) - log p_base(token) over all written tokens, nats.

    Over texts sampled from p it estimates KL(p || base) per token, whether p is a tuned or a steered model. A choice
    among several samples (best of n) does not show in it.

    Args:
        base: a model with the same tokens, in evaluation mode.
        rollouts: completions with the log-probabilities that they were sampled with.
        temperature: of sampling; the logits of the base are divided by it too.
    """
    nll, tokens = sampled_nll(base, rollouts, temperature)
    return (nll + sum(float(row.logprobs.sum()) for row in rollouts)) / max(tokens, 1)


@torch.no_grad()
def weight_distance(lm: nn.Module, base: nn.Module) -> float:
    """Norm of the difference of two models' weights over the norm of the second's; 0 if they are the same.

    Raises:
        UserError: the models differ in more than their weights.
    """
    ours, theirs = dict(base_lm(lm).named_parameters()), dict(base_lm(base).named_parameters())
    if {n: p.shape for n, p in ours.items()} != {n: p.shape for n, p in theirs.items()}:
        raise UserError("model.base: these models differ in more than weights; name what model.model was tuned from")
    # In float64: squares of small differences are summed over millions of weights.
    gap = sum(
        float((ours[name].double() - theirs[name].to(ours[name].device).double()).square().sum()) for name in ours
    )
    size = sum(float(parameter.double().square().sum()) for parameter in theirs.values())
    return float((gap / size) ** 0.5)
