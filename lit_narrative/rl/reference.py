"""Models beside the policy: the reference, which it stays near to, and the teacher, which it comes nearer to."""

import copy
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from lit_narrative.errors import UserError
from lit_narrative.lm.checkpoint import REFERENCE
from lit_narrative.lm.policy import PolicySource

ReferenceKind = Literal["auto", "none", "copy", "adapter_off", "adapter_copy"]


@dataclass(frozen=True)
class ReferenceSettings:
    """Which policy is the reference, and whether it follows.

    Args:
        kind: ``copy`` is a frozen second model; ``adapter_off`` is the policy without its adapters, which costs no
            memory; ``adapter_copy`` is a frozen second set of adapters. ``auto``: none without ``loss.beta``, adapters
            off with LoRA (a copy of them if they are to be followed, or are those of a folder), else a copy.
        model: a hub name, folder or checkpoint of another reference than the policy that the run starts from.
        sync_ref_model: let the reference follow the policy (TR-DPO, Gorbatovski et al. 2024).
        ref_model_sync_steps: optimizer steps from one move to the next.
        ref_model_mixup_alpha: how far it moves, above 0 and up to 1: reference <- (1 - alpha) reference + alpha policy.
    """

    kind: ReferenceKind = "auto"
    model: str | None = None
    sync_ref_model: bool = False
    ref_model_sync_steps: int = 512
    ref_model_mixup_alpha: float = 0.6

    def __post_init__(self) -> None:
        if self.ref_model_sync_steps < 1:
            raise UserError(f"model.reference.ref_model_sync_steps={self.ref_model_sync_steps} must be at least 1")
        if not 0 < self.ref_model_mixup_alpha <= 1:
            raise UserError(
                f"model.reference.ref_model_mixup_alpha={self.ref_model_mixup_alpha} must be above 0 and at most 1"
            )
        if self.model is not None and self.kind not in ("auto", "copy"):
            raise UserError(
                f"model.reference.model is a second model, which kind '{self.kind}' has no use for; leave kind out"
            )
        if self.sync_ref_model and self.kind in ("none", "adapter_off"):
            raise UserError(
                f"model.reference.sync_ref_model: kind '{self.kind}' has no weights that could follow the policy; "
                "choose copy, or adapter_copy with LoRA"
            )

    def resolve(self, beta: float, lora: bool) -> ReferenceKind:
        """The kind that a run needs, never ``auto``.

        Raises:
            UserError: if the settings contradict each other.
        """
        kind = self.kind
        if kind == "auto" and self.model is None:
            kind = "none" if not beta else "copy"
            if beta and lora:
                kind = "adapter_copy" if self.sync_ref_model else "adapter_off"
        elif kind == "auto":
            kind = "copy"
        if kind == "none" and beta:
            raise UserError(f"model.reference.kind is none, but model.loss.beta={beta} needs a reference")
        if kind in ("adapter_off", "adapter_copy") and not lora:
            raise UserError(f"model.reference.kind '{kind}' needs adapters: set model.lora, or choose copy")
        if kind == "copy" and lora and self.sync_ref_model:
            raise UserError(
                "model.reference.sync_ref_model: a whole copy cannot follow a policy of adapters; choose adapter_copy"
            )
        if kind == "none" and self.sync_ref_model:
            raise UserError("model.reference.sync_ref_model: there is no reference without model.loss.beta or a kind")
        return kind


@dataclass(frozen=True)
class DistillationSettings:
    """A teacher for the policy, on what the policy itself writes (on-policy distillation, Agarwal et al. 2024).

    At each completion token the whole distributions are compared, at the temperature of sampling; the mean over all
    completion tokens of the optimizer step, those of completions that the policy loss leaves out too, is added to the
    loss.

    Args:
        model: hub name, folder or checkpoint of the teacher, of the policy's vocabulary; None: no teacher.
        weight: of the mean divergence in the loss, above 0.
        beta: which divergence: 1 is KL(policy || teacher), 0 is KL(teacher || policy), between them the generalised
            Jensen-Shannon divergence.

    Raises:
        UserError: a number is out of range, or one is given without a teacher.
    """

    model: str | None = None
    weight: float = 1.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise UserError(f"model.distillation.weight={self.weight} must be a number above 0")
        if not 0 <= self.beta <= 1:
            raise UserError(f"model.distillation.beta={self.beta} must be in 0..1")
        if self.model is None and (self.weight, self.beta) != (1.0, 1.0):
            raise UserError("model.distillation: weight and beta are of a teacher; name it by model.distillation.model")


def add_reference_adapters(lm: Any) -> None:
    """Give a policy of adapters a frozen second set with the same weights, unless it has one."""
    if REFERENCE in lm.peft_config:
        return
    # peft initialises the second set at random before it is overwritten; without the fork, a run with such a reference
    # would draw other numbers later than one without.
    with torch.random.fork_rng(devices=[]):
        lm.add_adapter(REFERENCE, lm.peft_config["default"])
    for frozen, trained in _adapter_pairs(lm):
        frozen.data.copy_(trained.data)
        frozen.requires_grad_(False)


def reference_model(
    settings: ReferenceSettings, lm: nn.Module, tokenizer: PreTrainedTokenizerBase, source: PolicySource
) -> nn.Module:
    """A frozen model in evaluation mode: another one that the settings name, or a copy of the policy.

    Raises:
        UserError: if the other model reads another vocabulary.
    """
    if settings.model is None:
        # Without gradients: the optimizer takes what asks for one, and DDP would wait for them in each backward pass.
        return copy.deepcopy(lm).requires_grad_(False).eval()
    return other_model("model.reference.model", settings.model, tokenizer, source)


def other_model(flag: str, name: str, tokenizer: PreTrainedTokenizerBase, source: PolicySource) -> nn.Module:
    """Another model beside the policy, frozen and in evaluation mode.

    Args:
        flag: the setting that names it.
        name: a hub name, folder or checkpoint.
        tokenizer: the policy's.
        source: of the policy, whose precision and attention it shares.

    Raises:
        UserError: it reads another vocabulary.
    """
    # Neither adapters nor gradient checkpointing: this model only scores.
    plain: dict[str, Any] = {"tokenizer": None, "lora": None, "adapter": None, "gradient_checkpointing": False}
    # A checkpoint brings its own injection along.
    model, vocabulary = replace(source, model=name, injection=None, **plain).build()
    if vocabulary.get_vocab() != tokenizer.get_vocab():
        raise UserError(
            f"{flag} '{name}' has another vocabulary ({len(vocabulary)} tokens) than the policy ({len(tokenizer)} "
            "tokens), so its log-probabilities mean something else; choose one with the same"
        )
    return model.requires_grad_(False).eval()


@contextmanager
def reference_policy(kind: ReferenceKind, lm: nn.Module, reference: nn.Module | None) -> Iterator[nn.Module | None]:
    """The model that is the reference within the context; None if there is none.

    Args:
        kind: as `ReferenceSettings.resolve` says.
        lm: the policy; its adapters are switched within the context for ``adapter_off`` and ``adapter_copy``.
        reference: the second model of ``copy``.
    """
    adapters: AbstractContextManager[object] = nullcontext()
    if kind == "adapter_off":
        adapters = lm.disable_adapter()  # type: ignore[operator]
    elif kind == "adapter_copy":
        adapters = adapters_of_reference(lm)
    with adapters:
        # Both kinds of adapters are the policy itself, with its adapters switched.
        yield {"none": None, "copy": reference}.get(kind, lm)


@contextmanager
def adapters_of_reference(lm: Any) -> Iterator[None]:
    """Within it the policy uses its second set of adapters."""
    # `inference_mode` keeps peft from switching on the gradients of the adapters that it makes active.
    lm.base_model.set_adapter(REFERENCE, inference_mode=True)
    try:
        yield
    finally:
        lm.base_model.set_adapter("default")


@torch.no_grad()
def follow(lm: nn.Module, reference: nn.Module | None, alpha: float) -> None:
    """Move the reference towards the policy (TR-DPO, Gorbatovski et al. 2024).

    reference <- (1 - a) reference + a policy, weight by weight.

    Args:
        lm: the policy.
        reference: the second model; None: the second set of adapters.
        alpha: a, in 0..1.
    """
    pairs = _adapter_pairs(lm) if reference is None else zip(reference.parameters(), lm.parameters(), strict=True)
    for moved, target in pairs:
        # `lerp_` refuses two precisions; the reference keeps the one that it was loaded in.
        moved.lerp_(target.detach().to(moved.dtype), alpha)


def _adapter_pairs(lm: nn.Module) -> list[tuple[nn.Parameter, nn.Parameter]]:
    """Each weight of the reference's adapters beside the policy's."""
    named = dict(lm.named_parameters())
    return [
        (parameter, named[name.replace(f".{REFERENCE}.", ".default.")])
        for name, parameter in named.items()
        if f".{REFERENCE}." in name
    ]
