"""PPLM as a steerer, with two pasts: the plain one, and one that gradient steps move.

The published code reads the whole text again for every token; here every token is read once after the plain past, and
``num_iterations`` + 1 times after the moved one.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from lit_narrative.errors import UserError
from lit_narrative.steering.bags import BagsOfRows
from lit_narrative.steering.heads import Target
from lit_narrative.steering.losses import bag_loss, class_loss, divergence
from lit_narrative.steering.past import Reader, Reading, check_cache
from lit_narrative.steering.pplm.buffered_past import BufferedPast, can_buffer
from lit_narrative.steering.pplm.core import fuse, norms_so_far, window_weights
from lit_narrative.steering.pplm.settings import PPLMSettings
from lit_narrative.steering.sampler import Scores, Texts


class PPLM:
    """Plug-and-play steering by bags and heads (Dathathri et al. 2020).

    Args:
        settings: parameters, with ``stepsize`` as a number.
        bags: of each row.
        targets: wanted classes.
    """

    def __init__(self, settings: PPLMSettings, bags: BagsOfRows | None = None, targets: Sequence[Target] = ()) -> None:
        if not targets and not (bags and bags.bags):
            raise UserError("model.method=pplm has nothing to steer to: give a bag or a head under attributes")
        self.settings, self.bags, self.targets = settings, bags, targets
        self.remedy = f"lower model.pplm.stepsize (now {settings.stepsize}), or raise kl_scale"

    def begin(self, lm: PreTrainedModel, texts: Texts) -> "PPLMDecoding":
        """Read the prompts up to their last tokens, and copy the past."""
        return PPLMDecoding(lm, texts, self)


class PPLMDecoding:
    """Decoding under PPLM; see `lit_narrative.steering.sampler.SteeredDecoding`."""

    def __init__(self, lm: PreTrainedModel, texts: Texts, steerer: PPLM) -> None:
        check_cache(lm)
        self.lm, self.settings = lm, steerer.settings
        self.temperature, self.passes, self.step = texts.temperature, 0, 0
        device = texts.ids.device
        self.bags = steerer.bags(texts.columns, device) if steerer.bags else None
        self.targets = [(target, target.labels(texts.columns, device)) for target in steerer.targets]
        self.plain = Reader(lm, texts.ids, texts.mask, texts.owner)
        # A prompt of one token has no past yet that buffers could be made of.
        if self.settings.moves and self.plain.past.tensors and can_buffer(lm):
            self.plain.past = BufferedPast.of(self.plain.past.fork(), self.plain.positions.before, texts.new_tokens)
        self.moved = self.plain.past.copy()
        self.norms: torch.Tensor | None = None
        self.losses: list[torch.Tensor] = []
        self.recording_seconds = 0.0

    def keep(self, rows: torch.Tensor) -> None:
        """Keep only ``rows``."""
        self.plain.keep(rows)
        self.moved.keep(rows)
        self.bags = self.bags.rows(rows) if self.bags else None
        self.targets = [(target, labels[rows]) for target, labels in self.targets]
        self.norms = None if self.norms is None else self.norms[:, rows]

    def scores(self, tokens: torch.Tensor | None) -> Scores:
        """Scores of the next token."""
        self.step += tokens is not None
        self.plain.advance(tokens)
        if not self.settings.carry_over:
            self.moved = self.plain.past.copy()
        # The states before this token: the class loss adds those of the token and of the expected ones itself.
        before = self.plain.sums
        plain = self.plain.read()
        steered = self._steered(plain, before) if self.settings.moves else plain
        self.passes += 1
        return Scores(*fuse(steered.logits, plain.logits, self.settings, self.temperature))

    def _steered(self, plain: Reading, sums: torch.Tensor) -> Reading:
        """Move the past, then read the token after it."""
        self.losses = []
        if self.settings.grad_length is None or self.step < self.settings.grad_length:
            if self.moved.tensors:
                self._move(plain, sums)
        elif not self.settings.carry_over:
            return plain
        self.passes += 1
        return self.moved.read(self.plain.tokens, self.plain.positions)

    def _move(self, plain: Reading, sums: torch.Tensor) -> None:
        positions = self.plain.positions
        weights = window_weights(positions.before, self.settings)
        reference = torch.log_softmax(plain.logits, -1)

        def loss(reading: Reading) -> tuple[torch.Tensor, torch.Tensor]:
            return self._loss(reading, reference, sums)

        for _ in range(self.settings.num_iterations):
            self.losses.append(self.moved.gradient_step(self.plain.tokens, positions, loss, self._factors, weights))
            self.passes += 2

    def _factors(self, squares: torch.Tensor) -> torch.Tensor:
        """The factors (L, B) of the gradients of each block and row: stepsize / norm^gamma (eq. 3)."""
        self.norms = norms_so_far(squares, self.norms, self.settings.norm_maximum and not self.targets)
        return self.settings.step / self.norms**self.settings.gamma

    def _loss(self, reading: Reading, plain: torch.Tensor, sums: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss of each row and its gradient, given the plain log-probabilities (B, V) and sums of states (B, d)."""
        # Losses of the logits bring their gradients in closed form: no graph over (B, V) is kept.
        logprobs = torch.log_softmax(reading.logits, -1)
        parts = []
        if self.bags:
            parts.append(bag_loss(logprobs.exp(), self.bags))
        if self.settings.kl_scale:
            kl, grad = divergence(logprobs, plain)
            parts.append((kl * self.settings.kl_scale, grad * self.settings.kl_scale))
        if self.targets:
            parts.append(self._class_loss(reading, sums))
        losses, grads = zip(*parts, strict=True)
        return sum(losses[1:], losses[0]), sum(grads[1:], grads[0])

    def _class_loss(self, reading: Reading, sums: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss of the wanted classes, and its gradient with regard to the logits through expected future tokens."""
        # A new leaf: the gradient stops at the logits here, and `gradient_step` carries it on through the model.
        logits = reading.logits.clone().requires_grad_()
        # Unlike the others this loss reads on through the model, so its gradient takes autograd.
        with torch.enable_grad():
            mean = self._future(torch.softmax(logits, -1), sums + reading.hidden)
            losses = [target.strength * class_loss(target.logits(mean), labels) for target, labels in self.targets]
            loss = sum(losses[1:], losses[0])
            (grad,) = torch.autograd.grad(loss.sum(), logits)
        return loss.detach(), grad

    def _future(self, probabilities: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
        """(B, d) mean hidden state of the text and of ``horizon_length`` expected tokens, with a gradient."""
        # Gemma scales embeddings in their own forward method, which a product with the weight matrix skips.
        embedding: Any = self.lm.get_input_embeddings()
        expected = probabilities.to(embedding.weight.dtype) @ embedding.weight * getattr(embedding, "embed_scale", 1.0)
        # A fork of the plain past: the expected tokens must not stay in it.
        past, positions, horizon = self.plain.past.fork(), self.plain.positions, self.settings.horizon_length
        for _ in range(horizon):
            positions = positions.next()
            total = total + past.read_states(positions, inputs_embeds=expected[:, None])
        return total / (self.plain.positions.lengths + horizon)[:, None]
