"""``transformers.generate``, one completion at a time: what ``LoopSampler`` is tested against."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from lit_narrative.lm.load import base_lm, end_ids
from lit_narrative.lm.sampler import Decoded, Request, SamplingParams, as_rollouts
from lit_narrative.views import Rollout


class HFSampler:
    """A sampler around ``generate``; seeds drive the random draws of transformers."""

    @torch.no_grad()
    def sample(
        self, lm: nn.Module, tokenizer: PreTrainedTokenizerBase, requests: Sequence[Request], params: SamplingParams
    ) -> list[Rollout]:
        base, ends, rollouts = base_lm(lm), end_ids(lm, tokenizer), []
        for group, request in enumerate(requests):
            ids = torch.tensor([request.ids], device=next(lm.parameters()).device)
            for seed in request.seeds:
                with torch.random.fork_rng():
                    torch.manual_seed(seed)
                    output = base.generate(  # type: ignore[operator]
                        ids, attention_mask=torch.ones_like(ids), **_generate_options(params, tokenizer, ends)
                    )
                completion = output.sequences[:, ids.shape[1] :].cpu()
                scores = torch.stack([torch.log_softmax(s.float(), -1)[0] for s in output.scores]).cpu()
                decoded = Decoded(completion, scores.gather(1, completion.T).T, torch.tensor([completion.shape[1]]))
                single = Request(request.prompt, request.ids, (seed,))
                rollouts += as_rollouts(tokenizer, [single], decoded, ends, group)
        return rollouts


def _generate_options(
    params: SamplingParams, tokenizer: PreTrainedTokenizerBase, ends: Sequence[int]
) -> dict[str, Any]:
    return {
        "do_sample": True,
        "temperature": params.temperature,
        "top_k": params.top_k,
        "top_p": params.top_p,
        "max_new_tokens": params.max_new_tokens,
        "eos_token_id": list(ends),
        "pad_token_id": tokenizer.pad_token_id,
        "return_dict_in_generate": True,
        "output_scores": True,
    }
