"""Sources of a policy: a hub name, a folder, a checkpoint, or the sizes of a new model; with adapters on top."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lit_narrative.errors import UserError
from lit_narrative.files import atomic_folder
from lit_narrative.lm.adapter_folder import load_adapters
from lit_narrative.lm.base_model import BaseModel, identify
from lit_narrative.lm.chat import check_template
from lit_narrative.lm.checkpoint import read_language_model, restore_language_model
from lit_narrative.lm.fast.prefix_forward import supports_shared_prompts
from lit_narrative.lm.load import (
    Attention,
    Dtype,
    Lora,
    ScratchModel,
    add_lora,
    build_lm,
    check_vocabulary,
    load_lm,
    scratch_config,
)
from lit_narrative.lm.logprobs import check_output_layer
from lit_narrative.lm.quantize import quantize
from lit_narrative.lm.sampler import check_decoding
from lit_narrative.lm.tokenizer import TrainedTokenizer, check_same_tokens, load_tokenizer, train_tokenizer
from lit_narrative.lm.vectors.inject import InjectionSettings, add_injector, describe_injector
from lit_narrative.seeds import run_seed
from lit_narrative.views import InjectedVectors

Policy = tuple[nn.Module, PreTrainedTokenizerBase]


@dataclass(frozen=True)
class PolicySource:
    """How to get a model and its tokenizer; see ``LanguageModule`` for the meaning of each setting."""

    model: str | ScratchModel
    tokenizer: str | TrainedTokenizer | None
    lora: Lora | None
    dtype: Dtype
    attention: Attention
    gradient_checkpointing: bool
    trust_remote_code: bool = False
    adapter: str | None = None
    """A folder of PEFT adapters over ``model``, of the settings ``lora``, to go on training."""
    chat: bool = False
    injection: InjectionSettings | None = None

    def __post_init__(self) -> None:
        if self._is_checkpoint and self.tokenizer is not None:
            raise UserError(
                "model.tokenizer is given, but the checkpoint in model.model brings its own; leave it out, or take a "
                "configuration's back by --model.tokenizer=null"
            )
        if isinstance(self.model, str) and isinstance(self.tokenizer, TrainedTokenizer):
            raise UserError(
                f"model.tokenizer asks to train a tokenizer, but the embeddings of '{self.model}' belong to its own: "
                "give --model.tokenizer=null to take that one"
            )

        if self.lora and self.lora.quantization and (self._is_checkpoint or not isinstance(self.model, str)):
            raise UserError(
                "model.lora.quantization holds a base of its own name in 4 bits: give a hub name or a folder as "
                "model.model (lit-narrative export writes one of a checkpoint), or leave it out"
            )

    @property
    def _is_checkpoint(self) -> bool:
        return isinstance(self.model, str) and self.model.endswith(".ckpt")

    @property
    def trains_tokenizer(self) -> bool:
        """Whether a tokenizer is to be trained on the task's corpus."""
        if self.tokenizer is None:
            return isinstance(self.model, ScratchModel)
        return isinstance(self.tokenizer, TrainedTokenizer)

    def prepare(self, texts: Iterable[str], folder: Path, names: Iterable[str] = ()) -> None:
        """Train the tokenizer into ``folder``, whole or not at all."""
        spec = self.tokenizer if isinstance(self.tokenizer, TrainedTokenizer) else TrainedTokenizer()
        with atomic_folder(folder) as fresh:
            train_tokenizer(texts, spec, names).save_pretrained(fresh)

    def build(self, tokenizer_folder: Path | None = None, vectors: InjectedVectors | None = None) -> Policy:
        """Load or build the policy.

        Args:
            tokenizer_folder: where `prepare` wrote the tokenizer, if it did.
            vectors: what the task brings along to inject.

        Raises:
            UserError: it cannot be built, or takes no such vectors.
        """
        lm, tokenizer = self._build(tokenizer_folder)
        if self.injection:
            if describe_injector(lm):
                raise UserError(
                    f"model.injection is given, but the checkpoint '{self.model}' takes vectors already, as it was "
                    "trained to; leave it out, or take a configuration's back by --model.injection=null"
                )
            # After the adapters, which would freeze it, and before weights are sharded.
            add_injector(lm, tokenizer, _fitted(self.injection, vectors))
        return lm, tokenizer

    def _build(self, tokenizer_folder: Path | None) -> Policy:
        if self._is_checkpoint:
            return self._with_extras(*read_language_model(str(self.model), **self._options))
        where = tokenizer_folder if self.trains_tokenizer else self.tokenizer or self.adapter or self.model
        # A tokenizer that was trained is the run's own, and brings no code along.
        tokenizer = load_tokenizer(str(where), self.trust_remote_code and not self.trains_tokenizer)
        if self.chat:
            check_template(tokenizer)  # before the model is read
        if isinstance(self.model, str):
            if isinstance(self.tokenizer, str):
                check_same_tokens(tokenizer, self.tokenizer, self.model)
            return self._with_extras(load_lm(self.model, **self._options), tokenizer, self.adapter)
        config = scratch_config(self.model, len(tokenizer), tokenizer.eos_token_id)
        seed = run_seed() if self.model.seed is None else self.model.seed
        return self._with_extras(build_lm(config, dtype=self.dtype, attention=self.attention, seed=seed), tokenizer)

    def restore(self, checkpoint: dict[str, Any]) -> Policy:
        """The policy that a checkpoint's weights belong to; Lightning loads the weights themselves."""
        other = self.model if isinstance(self.model, str) and not self._is_checkpoint else None
        return self._with_extras(*restore_language_model(checkpoint, **self._options, base=other))

    def base(self) -> BaseModel | None:
        """The model that is loaded, where it has a hub name or a folder: the base of what is trained upon it."""
        return identify(self.model) if isinstance(self.model, str) and not self._is_checkpoint else None

    @property
    def _options(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "attention": self.attention, "trust_remote_code": self.trust_remote_code}

    def _with_extras(
        self, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, adapter: str | None = None
    ) -> Policy:
        """Check that model and tokenizer belong together; add gradient checkpointing, and new or given adapters."""
        # Adapters last: the checks read the transformers model, which peft would wrap.
        check_vocabulary(lm, len(tokenizer))
        check_output_layer(lm.eval())
        check_decoding(lm)
        # The result is cached with the model. Checked now: sharding or hooks would change what the check computes.
        supports_shared_prompts(lm)
        if self.gradient_checkpointing:
            lm.gradient_checkpointing_enable()
        if self.lora and self.lora.quantization:  # behind the checks, and under the adapters
            quantize(lm)
        adapted = load_adapters(lm, adapter) if adapter else add_lora(lm, self.lora) if self.lora else lm
        if describe_injector(lm):  # one from a checkpoint, which peft has frozen with the rest of the model
            lm.injector.requires_grad_(True)
        return adapted, tokenizer


def _fitted(settings: InjectionSettings, vectors: InjectedVectors | None) -> InjectionSettings:
    """Settings with what they leave to the task's vectors: marker, width, and the norm of ``mean_norm``.

    Raises:
        UserError: the marker is another one than in the task's prompts.
    """
    if vectors is None:
        return settings
    if settings.marker not in (None, vectors.marker):
        raise UserError(
            f"model.injection.marker={settings.marker!r}, and the task's prompts hold {vectors.marker!r}; leave it out"
        )
    scale = vectors.mean_norm if settings.scale == "mean_norm" else settings.scale
    return replace(settings, marker=vectors.marker, width=settings.width or vectors.width, scale=scale)
