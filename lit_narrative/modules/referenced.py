"""The base of modules whose policy learns beside a reference policy: GRPO and preference learning extend it."""

from dataclasses import replace
from typing import Any, Self

from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedTokenizerBase

from lit_narrative.lm.checkpoint import drop_reference, of_reference
from lit_narrative.lm.load import blocks
from lit_narrative.modules.base import plain
from lit_narrative.modules.language import LanguageModule
from lit_narrative.rl.reference import ReferenceKind, ReferenceSettings, add_reference_adapters, follow, reference_model
from lit_narrative.rl.settings import check_auxiliary


class ReferencedModule(LanguageModule):
    """A policy that learns without dropout, and the reference that it is compared with.

    Attributes:
        reference_settings: which reference, and whether it follows the policy.
        reference_kind: what this run needs of it, never ``auto``.
        uses_reference: whether the stage in progress asks for the reference.
    """

    reference_settings: ReferenceSettings
    reference_kind: ReferenceKind
    uses_reference = False

    @property
    def reference_copy(self) -> nn.Module | None:
        """The reference, where it is a model beside the policy."""
        return self._modules.get("reference")

    def take_reference(self, settings: ReferenceSettings, needed: bool) -> ReferenceSettings:
        """The settings of a run, as they hold where it starts from adapters that were given: a copy of those.

        Args:
            settings: as they were given.
            needed: whether the loss compares with a reference at all.
        """
        if self.source.adapter and needed and (settings.kind, settings.model) == ("auto", None):
            settings = replace(settings, kind="adapter_copy")
            self.hparams.update(reference=plain(settings))
        return settings

    # --- building ---------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Note what the stage asks for: a reference only where the policy learns."""
        super().setup(stage)
        self.uses_reference = stage == "fit"

    def set_model(self, lm: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
        """Take a policy; the reference of another one goes."""
        self._modules.pop("reference", None)
        super().set_model(lm, tokenizer)

    def build_auxiliary(self) -> None:
        """Build the reference, where the stage asks for one that is not there."""
        if self.uses_reference and self.reference_kind == "copy" and self.reference_copy is None:
            self.reference = reference_model(self.reference_settings, self.lm, self.tokenizer, self.source)
        elif self.uses_reference and self.reference_kind == "adapter_copy":
            add_reference_adapters(self.lm)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Training without dropout: the language models stay in evaluation mode."""
        super().train(mode)
        for name in ("lm", "reference", "teacher"):
            if name in self._modules:
                self._modules[name].eval()  # type: ignore[union-attr]
        if mode and self.ready and self.gradient_checkpointing:
            # transformers recomputes a block's activations only if the block says that it trains. The flag is set on
            # the block alone: `train()` would switch on the dropouts within it.
            for block in blocks(self.lm):
                block.training = True
        return self

    # --- learning ---------------------------------------------------------------------------------------------------

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Optimizer | LightningOptimizer, optimizer_closure: Any = None
    ) -> None:
        """Make the step; then move the reference where it follows."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        settings = self.reference_settings
        # Lightning counts the step after this hook, hence the 1.
        if settings.sync_ref_model and (self.trainer.global_step + 1) % settings.ref_model_sync_steps == 0:
            follow(self.lm, self.reference_copy, settings.ref_model_mixup_alpha)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the reference; a run that does not ask for it leaves it as it is.

        Raises:
            UserError: this stage asks for a reference, and the checkpoint has none.
        """
        state = checkpoint["state_dict"]
        if not self.uses_reference or self.reference_kind in ("none", "adapter_off"):
            drop_reference(state)
        super().on_load_checkpoint(checkpoint)
        if not self.uses_reference:
            # An earlier fit may have left a reference, and strict loading asks for every weight of the module.
            state.update({name: value for name, value in self.state_dict().items() if of_reference(name)})
        check_auxiliary(set(self.state_dict()), set(state))
