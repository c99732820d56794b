"""Ratios of the policy to the one that sampled, per token, per sentence and per completion.

Notation: R completions, T longest completion.
"""

from typing import Literal

import torch

Level = Literal["token", "sequence", "sentence"]


def log_ratio_at(
    log_ratio: torch.Tensor, mask: torch.Tensor, level: Level, sentences: torch.Tensor | None = None
) -> torch.Tensor:
    """Logarithm of the importance ratio at the chosen level.

    ``token``: log pi/pi_old of each token (PPO, GRPO). ``sequence``: its mean over the completion, the logarithm of
    the length-normalised ratio (GSPO, Zheng et al. 2025, eq. 7). ``sentence``: its mean over the sentence that the
    token belongs to, GSPO's ratio with sentences in place of completions; one sentence makes it ``sequence``,
    sentences of one token make it ``token``.

    Args:
        log_ratio: (R, T) per token; its gradient is kept.
        mask: (R, T) bool, tokens that count.
        level: which.
        sentences: (R, T) int64, index of each token's sentence within its completion, in 0..T-1.

    Returns:
        (R, T), or (R, 1) for ``sequence``.

    Raises:
        ValueError: ``sentence`` without ``sentences``.
    """
    if level == "token":
        return log_ratio
    masked = log_ratio * mask
    if level == "sequence":
        return masked.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
    if sentences is None:
        raise ValueError("the sentence level needs the sentence of each token")
    sums = torch.zeros_like(masked).scatter_add(1, sentences, masked)  # (R, T), one column a sentence
    counts = torch.zeros_like(masked).scatter_add(1, sentences, mask.to(masked.dtype))
    return (sums / counts.clamp(min=1)).gather(1, sentences)
