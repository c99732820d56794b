"""What another model thinks of completions."""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from lit_narrative.lm.load import max_positions
from lit_narrative.lm.logprobs import completion_batch, score_completions
from lit_narrative.rl.rollout import Rollout

_BATCH = 32  # completions read side by side


@torch.no_grad()
def judge_nll(lm: nn.Module, tokenizer: PreTrainedTokenizerBase, rollouts: Sequence[Rollout]) -> tuple[float, int]:
    """Negative log-likelihood in nats of the completions' tokens, added up, and how many tokens these are.

    Prompts are read and not scored. The texts are tokenised anew, as the judge may have another tokenizer; a prompt
    that leaves no room loses its beginning.

    Args:
        lm: the judge, in evaluation mode.
        tokenizer: the judge's.
        rollouts: completions of any model.
    """
    limit = max_positions(lm)
    prompts: list[list[int]] = []
    completions: list[list[int]] = []
    for rollout in rollouts:
        completion = tokenizer(rollout.text, add_special_tokens=False)["input_ids"][: limit and limit - 1]
        prompt = tokenizer(rollout.prompt)["input_ids"]
        if completion and prompt:
            prompts.append(prompt[max(len(prompt) + len(completion) - limit, 0) :] if limit else prompt)
            completions.append(completion)
    device, total = next(lm.parameters()).device, 0.0
    for start in range(0, len(prompts), _BATCH):
        part = slice(start, start + _BATCH)
        batch = completion_batch(prompts[part], completions[part]).to(device)
        total -= float(score_completions(lm, batch).logprobs.sum())
    return total, sum(map(len, completions))
