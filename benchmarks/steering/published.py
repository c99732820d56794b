"""PPLM as its authors published it, for comparison: one text at a time, read again as a whole for every token.

A re-implementation of the loop of ``run_pplm.py`` (Dathathri et al. 2020) on today's caches, with its costs and quirks:
the window covers the oldest positions, the temperature divides the perturbed logits alone, steps add up on the host.
``tests/steering/pplm/test_golden.py`` compares it with values of the original.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import DynamicCache, PreTrainedModel

SMALL = 1e-15
Pairs = list[torch.Tensor]  # one (2, 1, heads, positions, width) a layer: keys and values


@dataclass(frozen=True)
class Published:
    """The options of the original; ``bags`` are lists of token ids, ``head`` and ``label`` the discriminator's."""

    stepsize: float = 0.02
    num_iterations: int = 3
    gamma: float = 1.5
    gm_scale: float = 0.9
    kl_scale: float = 0.01
    window_length: int = 0
    decay: bool = False
    horizon_length: int = 1
    temperature: float = 1.0
    top_k: int = 10
    bags: Sequence[Sequence[int]] = ()
    head: nn.Linear | None = None
    label: int = 0


@dataclass
class Trace:
    """The text, and at each token the distribution before top-k and the losses."""

    tokens: torch.Tensor
    fused: list[torch.Tensor] = field(default_factory=list)
    losses: list[list[float]] = field(default_factory=list)


def as_cache(lm: PreTrainedModel, past: Pairs) -> DynamicCache:
    """A cache of a plain-attention model from its pairs."""
    cache = DynamicCache(config=lm.config)
    for layer, (keys, values) in enumerate(past):
        cache.update(keys, values, layer)
    return cache


def as_pairs(cache: Any) -> Pairs:
    """The pairs of a cache."""
    return [torch.stack([layer.keys, layer.values]) for layer in cache.layers]


def read(lm: PreTrainedModel, past: Pairs | None, **inputs: torch.Tensor) -> tuple[torch.Tensor, Pairs, torch.Tensor]:
    """All logits, the pairs afterwards, and the last hidden states."""
    cache = None if past is None else as_cache(lm, past)
    output = lm(past_key_values=cache, use_cache=True, output_hidden_states=True, **inputs)
    return output.logits, as_pairs(output.past_key_values), output.hidden_states[-1]


def window_mask(past: torch.Tensor, options: Published) -> torch.Tensor:
    """Ones on the first ``window_length`` positions, rising to one with ``decay``."""
    length, window = past.shape[-2], options.window_length
    mask = torch.zeros_like(past)
    if window == 0 or length <= window:
        return mask.fill_(1.0)
    weights = torch.arange(1, window + 1) / window if options.decay else torch.ones(window)
    mask[..., :window, :] = weights[:, None]
    return mask


def attribute_loss(
    lm: PreTrainedModel, options: Published, probs: torch.Tensor, hidden: torch.Tensor, clean: Pairs, count: int
) -> torch.Tensor:
    """Bags by one-hot products, and the discriminator on a future of expected embeddings."""
    loss = probs.new_zeros(())
    for bag in options.bags:
        one_hot = functional.one_hot(torch.tensor(bag), probs.shape[-1]).float()
        loss = loss - torch.log(torch.sum(torch.mm(probs, one_hot.t())))
    if options.head is not None:
        for _ in range(options.horizon_length):
            embeds = torch.matmul(probs.unsqueeze(1), lm.get_input_embeddings().weight.data)  # type: ignore[operator]
            _, clean, more = read(lm, clean, inputs_embeds=embeds)
            hidden = hidden + more.sum(1)
        prediction = options.head(hidden / (count + options.horizon_length))
        loss = loss + functional.cross_entropy(prediction, torch.tensor([options.label]))
    return loss


def divergence(probs: torch.Tensor, clean_logits: torch.Tensor) -> torch.Tensor:
    """KL(perturbed || clean), with tiny probabilities lifted."""
    clean = functional.softmax(clean_logits[:, -1], dim=-1)
    clean = clean + SMALL * (clean <= SMALL).float()
    probs = probs + (SMALL * (probs <= SMALL).float()).detach()
    return (probs * (probs / clean).log()).sum()


def perturb(
    lm: PreTrainedModel,
    options: Published,
    past: Pairs,
    last: torch.Tensor,
    clean: tuple[torch.Tensor, Pairs, torch.Tensor],
    norms: list[torch.Tensor] | None,
) -> tuple[Pairs, list[torch.Tensor] | None, list[float]]:
    """Move the past by ``num_iterations`` normalised gradient steps."""
    clean_logits, clean_past, clean_hidden = clean
    steps = [torch.zeros_like(pair).numpy() for pair in past]
    mask, losses = window_mask(past[0], options), []
    for _ in range(options.num_iterations):
        deltas = [torch.from_numpy(step).requires_grad_() for step in steps]
        logits, _, hidden = read(lm, [p + d for p, d in zip(past, deltas, strict=True)], input_ids=last)
        probs = functional.softmax(logits[:, -1], dim=-1)
        total = clean_hidden[:, :-1].sum(1) + hidden.sum(1).detach()
        loss = attribute_loss(lm, options, probs, total, clean_past, past[0].shape[-2] + 1)
        if options.kl_scale > 0:
            loss = loss + options.kl_scale * divergence(probs, clean_logits)
        losses.append(loss.item())
        loss.backward()
        grads = [delta.grad * mask for delta in deltas]  # type: ignore[operator]
        if norms is not None and options.head is None:
            norms = [torch.max(old, torch.norm(grad)) for old, grad in zip(norms, grads, strict=True)]
        else:
            norms = [torch.norm(grad) + SMALL for grad in grads]
        moves = [-options.stepsize * (g / n**options.gamma).numpy() for g, n in zip(grads, norms, strict=True)]
        steps = [step + move for step, move in zip(steps, moves, strict=True)]
    return [p + torch.from_numpy(step) for p, step in zip(past, steps, strict=True)], norms, losses


def top_k_filter(probs: torch.Tensor, k: int) -> torch.Tensor:
    """Zero below the k-th largest; 0 keeps all."""
    return probs if k == 0 else probs.where(probs >= probs.topk(k).values[:, -1:], 0.0)


def generate(
    lm: PreTrainedModel, context: Sequence[int], new_tokens: int, options: Published, generator: Any = None
) -> Trace:
    """Continue ``context``: greedily, or drawn by ``generator``; weights should not require gradients."""
    trace = Trace(torch.tensor([list(context)]))
    past: Pairs | None = read(lm, None, input_ids=trace.tokens[:, :-1])[1] if len(context) > 1 else None
    norms: list[torch.Tensor] | None = None
    for _ in range(new_tokens):
        last = trace.tokens[:, -1:]
        clean = read(lm, None, input_ids=trace.tokens)
        losses: list[float] = []
        if past is not None:
            past, norms, losses = perturb(lm, options, past, last, clean, norms)
        logits, past, _ = read(lm, past, input_ids=last)
        perturbed = functional.softmax(logits[:, -1] / options.temperature, dim=-1)
        fused = perturbed**options.gm_scale * functional.softmax(clean[0][:, -1], dim=-1) ** (1 - options.gm_scale)
        kept = top_k_filter(fused, options.top_k)
        if kept.sum() <= 1:
            kept = kept / kept.sum()
        token = kept.argmax(-1, True) if generator is None else torch.multinomial(kept, 1, generator=generator)
        trace.tokens = torch.cat([trace.tokens, token], dim=1)
        trace.fused.append(fused[0].detach())
        trace.losses.append(losses)
    return trace
