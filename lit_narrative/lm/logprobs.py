"""Log-probabilities of given completions under a causal LM.

Notation: B rows, L longest prompt + completion, N completion tokens of all rows together, V vocabulary.

Rows are padded on the right only: with causal attention no token before the padding sees it, so neither a mask nor
explicit position ids are needed, with learned and with rotary positions.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.distributed.fsdp import FSDPModule
from torch.utils.checkpoint import checkpoint

from lit_narrative.errors import UserError, first_line
from lit_narrative.lm.fast.layers import FEW_ROWS
from lit_narrative.lm.fast.packed_forward import packed_states
from lit_narrative.lm.fast.prefix_forward import completion_states
from lit_narrative.lm.grammar import unpack
from lit_narrative.lm.load import base_lm
from lit_narrative.lm.tokenizer import pad_right
from lit_narrative.lm.vectors.inject import stack_injections
from lit_narrative.views import TokenMasks, Turn

WORKSPACE = 2**24
"""Logits in memory at once by default: 64 MiB in float32, and a few times that with temporaries and gradients."""
LEAST = -1e4
"""Log-probability in place of minus infinity, of tokens that a grammar forbids: they add 0 instead of NaN."""


class Teacher(NamedTuple):
    """Whom a model is to come nearer to.

    Attributes:
        lm: the teacher, a transformers causal LM of the same vocabulary, in evaluation mode.
        beta: 0 for KL(teacher || student), 1 for KL(student || teacher), between them the generalised Jensen-Shannon
            divergence.
    """

    lm: nn.Module
    beta: float


class CompletionBatch(NamedTuple):
    """Prompts with their completions, side by side.

    Attributes:
        ids: (B, L) int64, prompt then completion, zeros on the right.
        targets: (B, L) bool, true where ``ids`` holds a completion token; false on observations between turns.
        injections: (B, K, a), the vectors at the markers of each row's prompt, NaN where it has fewer; None: no row has
            any. A prompt is read once for all rows of equal vectors, never for rows of others.
        masks: (B, T), the tokens that a grammar allowed at each completion token; None: all of them.
    """

    ids: torch.Tensor
    targets: torch.Tensor
    injections: torch.Tensor | None = None
    masks: TokenMasks | None = None

    def to(self, device: torch.device) -> "CompletionBatch":
        """The same batch on ``device``."""
        return CompletionBatch(*(None if part is None else part.to(device) for part in self))  # type: ignore[arg-type]

    def select(self, rows: torch.Tensor, width: int) -> "CompletionBatch":
        """The given rows (indices), cut to ``width`` columns."""
        injections = None if self.injections is None else self.injections[rows]
        masks = None if self.masks is None else self.masks._replace(rows=self.masks.rows[rows])
        return CompletionBatch(self.ids[rows, :width], self.targets[rows, :width], injections, masks)

    @property
    def allowed(self) -> torch.Tensor | None:
        """(N, W) the packed mask of each completion token, row by row in order; None: all tokens are allowed."""
        if self.masks is None:
            return None
        lengths = self.targets.sum(1, keepdim=True)
        columns = torch.arange(self.masks.rows.shape[1], device=self.ids.device)
        return self.masks.table[self.masks.rows[columns < lengths]]


class TokenScores(NamedTuple):
    """Scores of each completion token, row by row in order.

    Attributes:
        logprobs: (N,) float32 (float64 of a model in float64, and so the others), nats.
        entropy: (N,) float32, nats, of the distribution of the token; None unless asked for.
        values: (N,) float32, the value head's estimate at the position before the token; None without a head.
        divergence: (N,) float32, nats, from the teacher's distribution of the token; None without a teacher.
    """

    logprobs: torch.Tensor
    entropy: torch.Tensor | None = None
    values: torch.Tensor | None = None
    divergence: torch.Tensor | None = None


def completion_batch(
    prompts: Sequence[Sequence[int] | torch.Tensor],
    completions: Sequence[Sequence[int] | torch.Tensor],
    injections: Sequence["np.ndarray | torch.Tensor | None"] = (),
    turns: Sequence[Sequence[Turn]] = (),
) -> CompletionBatch:
    """Lay out prompts and completions as one right-padded batch.

    Args:
        prompts: B prompts.
        completions: B completions.
        injections: the vectors at the markers of each prompt, (a,) or (k, a), None for none; empty: none at all.
        turns: the earlier turns of each completion, whose observations stand between its tokens and are no targets;
            empty: none at all.

    Raises:
        UserError: the vectors differ in width, or are not finite.
    """
    written = completions if not turns else [*map(with_observations, completions, turns)]
    rows = [torch.cat([torch.as_tensor(p), torch.as_tensor(c)]) for p, c in zip(prompts, written, strict=True)]
    ids = pad_right(rows)
    starts = torch.tensor([len(prompt) for prompt in prompts])[:, None]
    ends = torch.tensor([len(row) for row in rows])[:, None]
    columns = torch.arange(ids.shape[1])
    targets = (columns >= starts) & (columns < ends)
    for row, earlier in enumerate(turns):
        end = len(prompts[row])
        for turn in earlier:
            start = end + turn.length
            end = start + len(turn.ids)
            targets[row, start:end] = False
    return CompletionBatch(ids, targets, stack_injections(injections))


def with_observations(completion: Sequence[int] | torch.Tensor, turns: Sequence[Turn]) -> torch.Tensor:
    """All that stands behind a prompt: the completion's tokens, with each observation behind the turn it answers."""
    left, parts = torch.as_tensor(completion), list[torch.Tensor]()
    for turn in turns:
        parts += [left[: turn.length], torch.tensor(turn.ids, dtype=torch.long)]
        left = left[turn.length :]
    return torch.cat([*parts, left])


def score_completions(
    lm: nn.Module,
    batch: CompletionBatch,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
    value_head: nn.Module | None = None,
    teacher: Teacher | None = None,
    packing: int | None = None,
    workspace: int = WORKSPACE,
) -> TokenScores:
    """Score every completion token of ``batch``.

    Args:
        lm: a transformers causal LM, with or without adapters.
        batch: B rows.
        temperature: logits are divided by it, as in sampling.
        entropy: compute the entropies too, with their gradient.
        value_head: turns the hidden states (N, d) that predict the tokens into their values, (N,) or (N, 1).
        teacher: whose distribution is compared with the model's; without gradient of its own.
        packing: read rows side by side in longer ones of that many tokens at most, without injections
            (`lit_narrative.lm.fast.packed_forward`); None: each by itself.
        workspace: logits that are in memory at once; one position's V are the least.
    """
    base = base_lm(lm)
    # FSDP2 gathers weights around registered forward methods only: `shard` makes scoring one of them.
    score: Any = base.score_tokens if isinstance(base, FSDPModule) else partial(score_tokens, base)
    asked = {"entropy": entropy, "value_head": value_head, "teacher": teacher, "packing": packing}
    return score(batch, temperature=temperature, workspace=workspace, **asked)


def score_tokens(
    base: nn.Module,
    batch: CompletionBatch,
    *,
    temperature: float,
    entropy: bool,
    value_head: nn.Module | None,
    teacher: Teacher | None,
    packing: int | None,
    workspace: int,
) -> TokenScores:
    """As `score_completions`, of the transformers model itself.

    Hidden states are computed once, and those of a prompt that rows share once for all of them; the output layer then
    runs only on positions that predict a completion token. Where their logits are more than ``workspace``, it runs on
    as many positions at a time as fit, and again in the backward pass: neither the logits of the whole batch nor their
    gradient are ever in memory at once.
    """
    if packing is None:
        hidden = completion_states(base, batch.ids, batch.targets, batch.injections)
    else:
        hidden = packed_states(base, batch.ids, batch.targets, packing)
    labels = batch.ids[batch.targets]
    values = None if value_head is None else at_least_float32(value_head(hidden).reshape(-1))
    score = partial(_score_positions, base, teacher, temperature=temperature, entropy=entropy)
    models = 1 if teacher is None else 2
    positions = max(workspace // (models * base.config.get_text_config().vocab_size), 1)  # type: ignore[operator,union-attr]
    if len(labels) > positions and torch.is_grad_enabled():
        score = partial(checkpoint, score, use_reentrant=False)
    elif hidden.is_cpu:
        # Each pass over the logits then finds them in the processor's cache; a GPU has no use for small products.
        positions = min(positions, FEW_ROWS)
    columns = {"hidden": hidden, "labels": labels, "allowed": batch.allowed}
    if teacher is not None:
        with torch.no_grad():
            columns["taught"] = completion_states(base_lm(teacher.lm), batch.ids, batch.targets)
    parts = {name: values.split(positions) for name, values in columns.items() if values is not None}
    scored = [score(**dict(zip(parts, part, strict=True))) for part in zip(*parts.values(), strict=True)]
    logprobs, entropies, divergences = zip(*scored, strict=True)
    return TokenScores(
        torch.cat(logprobs),
        torch.cat(entropies) if entropy else None,
        values,
        None if teacher is None else torch.cat(divergences),
    )


def _score_positions(
    base: nn.Module,
    teacher: Teacher | None,
    *,
    hidden: torch.Tensor,
    labels: torch.Tensor,
    allowed: torch.Tensor | None = None,
    taught: torch.Tensor | None = None,
    temperature: float,
    entropy: bool,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Log-probability of each label, entropy and divergence, all (n,), among the tokens allowed, packed (n, W)."""
    logits, divergence = _position_logits(base, hidden, allowed, temperature), None
    if teacher is not None and taught is not None:
        with torch.no_grad():
            others = _position_logits(base_lm(teacher.lm), taught, allowed, temperature)
        divergence = token_divergence(logits, others, teacher.beta)
    return *_Scores.apply(logits, labels, entropy), divergence  # type: ignore[no-untyped-call]


def _position_logits(
    base: nn.Module, hidden: torch.Tensor, allowed: torch.Tensor | None, temperature: float
) -> torch.Tensor:
    """(n, V) logits at a temperature, minus infinity where a token is not allowed."""
    # float32 from here on: in bfloat16 log-probabilities would differ from the sampler's by more than a ratio may.
    logits = at_least_float32(output_logits(base, hidden))
    if temperature != 1:
        logits /= temperature
    return logits if allowed is None else logits.masked_fill(~unpack(allowed, logits.shape[-1]), -torch.inf)


class _Scores(torch.autograd.Function):
    """Log-probability of a label, and entropy, given logits z (n, V).

    With p = softmax(z), d log p_y / dz = 1_y - p and dH / dz = -p (log p + H), here in one tensor of the size of the
    logits beside the one kept; PyTorch's own operations make five.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, labels: torch.Tensor, wants_entropy: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        probs = torch.softmax(logits, dim=-1)
        # log sum exp z: the likeliest token has p = exp(max z - log sum exp z), and p of 1 / V or more.
        total = logits.amax(-1) - probs.amax(-1).log()
        # p z is 0 where a logit is -inf, and so is its gradient.
        entropy = total - torch.linalg.vecdot(probs, _finite(logits)) if wants_entropy else None
        ctx.save_for_backward(probs, labels, entropy)
        ctx.set_materialize_grads(False)
        return logits.gather(-1, labels[:, None]).squeeze(-1) - total, entropy

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, of_logprobs: torch.Tensor | None, of_entropy: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, None, None]:
        probs, labels, entropy = ctx.saved_tensors
        if of_logprobs is None:
            of_logprobs = torch.zeros_like(probs[:, 0])
        if of_entropy is None:
            grad = probs * -of_logprobs[:, None]
        else:
            # p log p is 0 where p is 0.
            grad = torch.xlogy(probs, probs).mul_(-of_entropy[:, None])
            grad.sub_(probs * (entropy * of_entropy + of_logprobs)[:, None])
        return grad.scatter_add_(-1, labels[:, None], of_logprobs[:, None]), None, None


def _finite(values: torch.Tensor) -> torch.Tensor:
    return values.clamp(min=torch.finfo(values.dtype).min)


def reduced_precision(lm: nn.Module) -> bool:
    """Whether ``lm`` computes in less than float32 here, by its weights or by autocast.

    Log-probabilities of the same ids then differ between sampling, token by token, and scoring.
    """
    floats = [weight for weight in lm.parameters() if weight.is_floating_point()]
    return any(w.dtype.itemsize < 4 or torch.is_autocast_enabled(w.device.type) for w in floats)


def at_least_float32(values: torch.Tensor) -> torch.Tensor:
    """The values in float32, or in float64 where they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def output_logits(base: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """Logits (..., V) of final hidden states (..., d), with the scaling of architectures that have one."""
    config = base.config.get_text_config()  # type: ignore[operator,union-attr]
    logits = base.get_output_embeddings()(hidden)  # type: ignore[operator]
    if scale := getattr(config, "logit_scale", None):  # Cohere
        logits = logits * scale
    if scaling := getattr(config, "logits_scaling", None):  # Granite
        logits = logits / scaling
    if cap := getattr(config, "final_logit_softcapping", None):  # Gemma
        logits = torch.tanh(logits / cap) * cap
    return logits


@torch.no_grad()
def check_output_layer(lm: nn.Module) -> None:
    """Refuse an architecture that transforms its logits in a way that `output_logits` does not implement.

    Args:
        lm: a transformers causal LM in evaluation mode, with or without adapters.

    Raises:
        UserError: log-probabilities would not be those of the model.
    """
    base = base_lm(lm)
    ids = torch.zeros(1, 2, dtype=torch.long, device=base.device)
    try:
        hidden = base.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        ours = output_logits(base, hidden).float()
    except Exception as error:  # an architecture may keep its parts anywhere
        raise UserError(
            f"models of type '{base.config.model_type}' do not tell the hidden states before their output layer "
            f"({first_line(error)}), which log-probabilities are computed from; choose another model"
        ) from error
    # Once more with large logits: a cap is not seen in the small ones of a model that is not trained yet.
    scale = float((100 / ours.abs().max()).clamp(1, 1000))
    with base.get_output_embeddings().register_forward_pre_hook(lambda _, states: (scale * states[0],)):
        ours = output_logits(base, hidden).float()
        theirs = base(input_ids=ids, use_cache=False).logits.float()
    if (ours - theirs).abs().max() > 1e-3 * theirs.abs().max():
        raise UserError(
            f"models of type '{base.config.model_type}' change their logits in a way that is not known here, so their "
            "log-probabilities would be wrong; choose another model"
        )


def to_rows(values: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Flat token values (N,) at their positions (B, L); zeros elsewhere."""
    return values.new_zeros(targets.shape).masked_scatter(targets, values)


def token_divergence(student: torch.Tensor, teacher: torch.Tensor, beta: float) -> torch.Tensor:
    """Generalised Jensen-Shannon divergence at each position, nats (Agarwal et al. 2024, eq. 1).

    With the mixture M = beta T + (1 - beta) S: beta KL(T || M) + (1 - beta) KL(S || M). The limits that are used at
    ``beta`` 0 and 1 are KL(T || S) and KL(S || T), as in TRL: the definition itself is 0 there.

    Args:
        student: (n, V) logits, with gradient.
        teacher: (n, V') logits; of padded vocabularies the common tokens are compared.
        beta: in 0..1.

    Returns:
        (n,) of 0 or more.
    """
    common = min(student.shape[-1], teacher.shape[-1])
    log_student, log_teacher = (
        torch.log_softmax(logits[..., :common], dim=-1).clamp(min=LEAST) for logits in (student, teacher)
    )
    if beta == 0:
        return _kl(log_teacher, log_student)
    if beta == 1:
        return _kl(log_student, log_teacher)
    weight = log_student.new_tensor(beta)
    mixture = torch.logaddexp(log_student + torch.log1p(-weight), log_teacher + weight.log())
    return beta * _kl(log_teacher, mixture) + (1 - beta) * _kl(log_student, mixture)


def _kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """(n,) KL(p || q) of log-probabilities (n, V)."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)
