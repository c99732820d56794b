"""Memory that a training will take at its peak, part by part, without reading a weight.

The model is built on the meta device. Fake tensors, which have shapes and no content, run through it as a micro-batch,
and what autograd keeps of that pass for the backward one is counted. Numbers of parameters give the other parts.

Notation: B rows of a micro-batch, L tokens a row, V vocabulary.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal, Self

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from transformers import AutoConfig, PretrainedConfig

from lit_narrative.errors import UserError, first_line
from lit_narrative.lm.checkpoint import LANGUAGE_MODEL, load_checkpoint
from lit_narrative.lm.fast.layers import LARGE_MODEL
from lit_narrative.lm.load import (
    Attention,
    Dtype,
    Lora,
    ScratchModel,
    add_lora,
    base_lm,
    blocks,
    build_lm,
    config_from_dict,
    foreign_code,
    needs_code,
    scratch_config,
)
from lit_narrative.lm.logprobs import WORKSPACE

MIB = 2**20
CONTEXT = 600 * MIB
"""Of CUDA and its libraries on a GPU; an assumption."""
Step = Literal["learning", "sampling"]


@dataclass(frozen=True)
class Training:
    """What a training's memory depends on.

    Attributes:
        config: of the model.
        rows: B.
        tokens: L, of the longest row, prompt and completion together.
        learned: tokens of a row that are learned, whose logits are computed.
        dtype: of the weights.
        attention: the attention implementation.
        precision: of the Trainer.
        lora: adapters; None: all weights learn.
        checkpointing: activations are computed again in the backward pass.
        moments: numbers that the optimizer keeps of each weight.
        reference: whether a second model stands beside the policy.
        sampled: completions of a rollout batch; 0 where nothing is sampled.
        group: rows that share a prompt, which is read once for all of them.
        strategy: ``sharded`` (fsdp2), ``copies`` (ddp) or ``single``.
        processes: of the job.
        gpu: whether it runs on one, where the process's libraries are not in the memory that counts.
    """

    config: PretrainedConfig
    rows: int
    tokens: int
    learned: int
    dtype: Dtype = "float32"
    attention: Attention = "sdpa"
    precision: str = "32-true"
    lora: Lora | None = None
    checkpointing: bool = False
    moments: int = 2
    reference: bool = False
    sampled: int = 0
    group: int = 1
    strategy: Literal["single", "copies", "sharded"] = "single"
    processes: int = 1
    gpu: bool = False


@dataclass(frozen=True)
class Needs:
    """Bytes of one process.

    Attributes:
        libraries: Python and the libraries, or the context of a GPU.
        weights: of the policy, its adapters included.
        reference: of the model beside it.
        gradients: of what learns; twice where processes hold copies, which send them in buckets.
        optimizer: its state.
        activations: what the forward pass of a micro-batch leaves for the backward pass.
        logits: the output layer's work, and the gradient of its weights.
        gathered: with shards, the weights of one block, or in sampling of all of them.
        cache: keys and values of a rollout batch.
        kept: freed memory that glibc does not give back: about that of one pass, whose gaps the next ones do not fit
            into, also where its activations are computed again. From ``LARGE_MODEL`` weights on it is given back.
    """

    libraries: int
    weights: int
    reference: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    gathered: int = 0
    cache: int = 0
    kept: int = 0

    @property
    def step(self) -> Step:
        """When the peak comes: activations and a cache are never there together."""
        return "sampling" if self.cache > self.activations + self.logits else "learning"

    @property
    def total(self) -> int:
        """The peak."""
        always = sum((self.libraries, self.weights, self.reference, self.gradients, self.optimizer, self.gathered))
        always += self.kept
        return always + max(self.cache, self.activations + self.logits)

    def parts(self) -> dict[str, int]:
        """The parts of the peak by name, those of the other step left out."""
        other = ("activations", "logits") if self.step == "sampling" else ("cache",)
        named = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in other}
        return {name: size for name, size in named.items() if size}

    @classmethod
    def of(cls, training: Training, libraries: int) -> Self:
        """Estimate them.

        Args:
            training: what they depend on.
            libraries: bytes that Python and the libraries take; on a GPU its context counts in their place.

        Raises:
            UserError: the model cannot be built of its config.
        """
        lm = _build(training)
        weights, trained = _bytes(lm), _bytes(lm, trained=True)
        whole = _saved(lm, training)
        kept = _recomputed(lm, training, whole) if training.checkpointing else whole
        block = max(map(_bytes, blocks(base_lm(lm))), default=0)
        head = base_lm(lm).get_output_embeddings()
        head_weights = _bytes(head, trained=True) if isinstance(head, nn.Module) else 0
        each, logits = 4, training.rows * training.learned * _vocabulary(training.config)
        # Beyond the workspace the logits, their softmax and its gradient are there in parts, and computed twice.
        work = each * (3 * WORKSPACE if logits > WORKSPACE else logits * (3 if training.gpu else 1)) + head_weights
        shards = training.processes if training.strategy == "sharded" else 1
        gathered = 0
        if shards > 1:
            gathered = weights if training.sampled else block
            gathered //= 2 if training.precision == "bf16-mixed" else 1
        return cls(
            CONTEXT if training.gpu else libraries,
            weights // shards,
            (weights if training.reference else 0) // shards,
            trained * (2 if training.strategy == "copies" and training.processes > 1 else 1) // shards,
            training.moments * trained // shards,
            kept,
            work,
            gathered,
            _cache(training),
            0 if training.gpu or _numbers(lm) >= LARGE_MODEL else whole,
        )


def with_changes(training: Training) -> Iterator[tuple[str, Training]]:
    """Settings that would lower the peak, each with the training as it would be; those with equal results first."""
    if not training.checkpointing:
        yield "--model.gradient_checkpointing=true", replace(training, checkpointing=True)
    if training.rows > 1:
        halved = replace(training, rows=training.rows // 2)
        name = f"--model.micro_batch_size={halved.rows}" if training.sampled else f"--data.batch_size={halved.rows}"
        yield f"{name} and twice the trainer.accumulate_grad_batches", halved
    if training.sampled > 1:
        yield (
            "half the data.batch_size, or model.generation_batch_size",
            replace(training, sampled=training.sampled // 2),
        )
    if training.strategy != "sharded" and training.processes > 1:
        yield "--config trainer/fsdp", replace(training, strategy="sharded")
    if training.lora is None:
        yield "--model.lora.r=8", replace(training, lora=Lora(), reference=False)
    if training.gpu and training.precision == "32-true":
        yield "--trainer.precision=bf16-mixed", replace(training, precision="bf16-mixed")
    if training.lora is not None and training.dtype == "float32":
        yield "--model.dtype=bfloat16", replace(training, dtype="bfloat16")


def read_model_config(model: str | ScratchModel, vocabulary: int | None, trust_remote_code: bool) -> PretrainedConfig:
    """The config of a model by its sizes, folder, hub name or checkpoint; no weight is read.

    Args:
        model: as ``model.model`` names it.
        vocabulary: of a tokenizer that is yet to be trained.
        trust_remote_code: run the Python code that it brings along.

    Raises:
        UserError: there is none.
    """
    if isinstance(model, ScratchModel):
        if vocabulary is None:
            raise UserError("plan: the size of the vocabulary is that of model.tokenizer; give its vocab_size")
        return scratch_config(model, vocabulary, 0)
    if model.endswith(".ckpt"):
        stored = load_checkpoint(model).get(LANGUAGE_MODEL)
        if not isinstance(stored, dict) or not isinstance(stored.get("config"), dict):
            raise UserError(f"'{model}' holds no language model; give a checkpoint that SFTModule or GRPOModule wrote")
        return config_from_dict(stored["config"], trust_remote_code)
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers raises errors of all kinds on files that are damaged
        if needs_code(model, error, trust_remote_code):
            raise UserError(foreign_code(model)) from error
        raise UserError(f"no config of a language model at '{model}' ({first_line(error)}); give a folder") from error
    return config


def resident() -> int:
    """Bytes of this process in memory, as Linux counts them; 0 on other systems."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if path.is_file() else 0


def _build(training: Training) -> nn.Module:
    """The model on the meta device, as the job builds it."""
    try:
        with torch.device("meta"):
            lm = build_lm(training.config, dtype=training.dtype, attention=training.attention)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise UserError(f"the model's config cannot be built ({first_line(error)})") from error
    if training.precision.endswith("-true") and training.precision != "32-true":
        lm.to(torch.bfloat16 if training.precision.startswith("bf16") else torch.float16)  # type: ignore[arg-type]
    with torch.device("meta"):
        return add_lora(lm, training.lora) if training.lora else lm


def _recomputed(lm: nn.Module, training: Training, whole: int) -> int:
    """Bytes of activations where those within blocks are computed again, given those that are kept otherwise."""
    base_lm(lm).gradient_checkpointing_enable()
    layers = len(blocks(base_lm(lm))) or 1
    # In the backward pass the activations of one block are there at a time, with the gradients that flow through them.
    return _saved(lm, training) + 2 * whole // layers


def _saved(lm: nn.Module, training: Training) -> int:
    """Bytes that autograd keeps of a forward pass up to the last hidden states."""
    # Imported here: it brings the symbolic mathematics along.
    from torch._subclasses.fake_tensor import FakeTensorMode

    # As many tokens as there are: a prompt that rows share is read once.
    length = training.learned + -(-(training.tokens - training.learned) // training.group)
    decoder: nn.Module = base_lm(lm.train()).get_decoder()  # type: ignore[operator]
    mixed = training.precision.endswith("-mixed")
    lower = torch.float16 if training.precision.startswith("16") else torch.bfloat16
    seen: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        seen[tensor.untyped_storage()._cdata] = tensor.untyped_storage()  # held, so that no other gets its address
        return tensor

    # Fake tensors of the CPU and not of the meta device, which has no attention that keeps little.
    with FakeTensorMode():
        weights = {
            name: torch.empty(value.shape, dtype=value.dtype, requires_grad=value.requires_grad)
            for name, value in (*decoder.named_parameters(), *decoder.named_buffers())
        }
        given = {"input_ids": torch.zeros(training.rows, length, dtype=torch.long), "use_cache": False}
        with saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", lower, enabled=mixed):
            functional_call(decoder, weights, kwargs=given)
    owned = {value.untyped_storage()._cdata for value in weights.values()}
    return sum(storage.nbytes() for place, storage in seen.items() if place not in owned)


def _cache(training: Training) -> int:
    """Bytes of the keys and values of a rollout batch, and of the logits of a step."""
    text = training.config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    low = training.dtype != "float32" or training.precision not in ("32-true", "32")
    numbers = 2 * text.num_hidden_layers * heads * width * training.tokens
    return training.sampled * (numbers * (2 if low else 4) + 3 * 4 * _vocabulary(training.config))


def _bytes(module: nn.Module, trained: bool = False) -> int:
    seen = {id(tensor): tensor for tensor in module.parameters() if tensor.requires_grad or not trained}
    return sum(tensor.numel() * tensor.itemsize for tensor in seen.values())


def _numbers(module: nn.Module) -> int:
    return sum(tensor.numel() for tensor in module.parameters())


def _vocabulary(config: PretrainedConfig) -> int:
    size: int = config.get_text_config().vocab_size
    return size
