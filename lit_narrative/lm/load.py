"""Causal language models: by hub name, from a folder, or from a few numbers with seeded weights."""

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from lit_narrative.adapters import merge_adapters
from lit_narrative.errors import UserError, check_choice, first_line
from lit_narrative.lm.adapter_folder import adapter_base, is_adapter_folder, load_adapters
from lit_narrative.lm.fast.layers import use_faster_modules

logger = logging.getLogger(__name__)

_SETTINGS = ("config.json", "tokenizer_config.json", "modules.json")
"""Files that tell the folder of a model, a tokenizer or an encoder."""
Dtype = Literal["float32", "bfloat16", "float16"]
Attention = Literal["sdpa", "eager", "flash_attention_2", "flex_attention"]


@dataclass
class ScratchModel:
    """A model built from its sizes, with seeded random weights.

    Args:
        architecture: ``gpt2`` (learned positions) or ``llama`` (rotary positions, gated MLP).
        hidden_size: width of the residual stream.
        layers: number of blocks.
        heads: attention heads; must divide ``hidden_size``.
        intermediate_size: width of the MLP; default 4x (gpt2) or 8/3x (llama) the hidden size.
        positions: longest sequence, prompt and completion together.
        tie_embeddings: share the input and output embedding.
        dropout: dropout rate (gpt2 only: the llama architecture has none but in attention).
        seed: of the weights; default: the run's seed.
    """

    architecture: Literal["gpt2", "llama"] = "llama"
    hidden_size: int = 128
    layers: int = 2
    heads: int = 4
    intermediate_size: int | None = None
    positions: int = 256
    tie_embeddings: bool = True
    dropout: float = 0.0
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("hidden_size", "layers", "heads", "positions"):
            if getattr(self, name) < 1:
                raise UserError(f"model.model.{name}={getattr(self, name)} must be at least 1")
        if self.hidden_size % self.heads:
            raise UserError(
                f"model.model.heads={self.heads} does not divide model.model.hidden_size={self.hidden_size}; change one"
            )
        if self.architecture == "llama" and self.hidden_size // self.heads % 2:
            raise UserError(
                f"model.model.hidden_size={self.hidden_size} over model.model.heads={self.heads} is not even, as "
                "rotary positions need it; change one of them"
            )


@dataclass
class Lora:
    """Low-rank adapters (Hu et al. 2021), trained in place of the weights.

    Args:
        r: rank.
        alpha: scale; the update is multiplied by alpha / r.
        dropout: on the adapter's input.
        target_modules: names of the layers to adapt; default: what peft knows for the architecture.
        quantization: hold the linear layers of the base in 4 bits (``nf4``, QLoRA); of a model by hub name or folder.
    """

    r: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    target_modules: list[str] = field(default_factory=list)
    quantization: Literal["nf4"] | None = None

    def __post_init__(self) -> None:
        if self.quantization is not None:
            check_choice("model.lora.quantization", self.quantization, ("nf4",))


def scratch_config(spec: ScratchModel, vocab_size: int, eos_id: int) -> PretrainedConfig:
    """The transformers config of a `ScratchModel`."""
    # The padding id is kept out of the config: scoring fills the right side with id 0, which needs no mask.
    ids: dict[str, Any] = {"eos_token_id": eos_id, "bos_token_id": None, "pad_token_id": None}
    if spec.architecture == "gpt2":
        return GPT2Config(
            vocab_size=vocab_size,
            n_positions=spec.positions,
            n_embd=spec.hidden_size,
            n_layer=spec.layers,
            n_head=spec.heads,
            n_inner=spec.intermediate_size,
            resid_pdrop=spec.dropout,
            embd_pdrop=spec.dropout,
            attn_pdrop=spec.dropout,
            tie_word_embeddings=spec.tie_embeddings,
            **ids,
        )
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=spec.hidden_size,
        intermediate_size=spec.intermediate_size or -(-spec.hidden_size * 8 // 3 // 8) * 8,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.heads,
        max_position_embeddings=spec.positions,
        attention_dropout=spec.dropout,
        tie_word_embeddings=spec.tie_embeddings,
        **ids,
    )


def build_lm(
    config: PretrainedConfig,
    *,
    dtype: Dtype = "float32",
    attention: Attention = "sdpa",
    seed: int = 0,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """A causal LM with random weights drawn from ``seed``; the global random state is left as it was."""
    options: dict[str, Any] = {"dtype": getattr(torch, dtype), "trust_remote_code": trust_remote_code}

    def build(attention: str) -> PreTrainedModel:
        torch.manual_seed(seed)
        built: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation=attention, **options)
        return built

    # Weights are drawn on the CPU: the same seed gives the same model on every device.
    with torch.random.fork_rng(devices=[]):
        return use_faster_modules(_or_eager(build, attention))


def _or_eager(build: Callable[[str], PreTrainedModel], attention: Attention) -> PreTrainedModel:
    """A model with the attention asked for; ``eager``, with a word on it, where the architecture has no ``sdpa``.

    Raises:
        UserError: it has no other attention that was asked for, or a package for it is not installed.
    """
    try:
        return build(attention)
    except (ValueError, ImportError) as error:
        # Told by its text: transformers has no type for this error, which comes before any weight is read.
        message = first_line(error)
        if "attention" not in message.lower():
            raise
        if attention != "sdpa":
            raise UserError(f"model.attention={attention}: {message}; leave it out, or choose eager") from error
    logger.warning("%s has no attention by sdpa: it attends by eager, which is slower", message.split()[0])
    return build("eager")


def load_lm(
    name: str, *, dtype: Dtype = "float32", attention: Attention = "sdpa", trust_remote_code: bool = False
) -> PreTrainedModel:
    """Load a causal LM by hub name or folder; of a folder of PEFT adapters, their base with them merged into it.

    Args:
        name: of it.
        dtype: of the weights.
        attention: the attention implementation, whatever the folder's own config asks for; ``eager`` in place of
            ``sdpa`` where the architecture has none.
        trust_remote_code: run the Python code that it brings along.

    Raises:
        UserError: there is no such model, it cannot be read, or it needs code of its own.
    """
    if is_adapter_folder(name):
        where = adapter_base(name)
        try:
            base = load_lm(where, dtype=dtype, attention=attention, trust_remote_code=trust_remote_code)
        except UserError as error:
            raise UserError(f"the base of the adapters in '{name}': {error}") from error
        return merge_adapters(load_adapters(base, name))
    options: dict[str, Any] = {"dtype": getattr(torch, dtype), "trust_remote_code": trust_remote_code}
    missing: list[str] = []

    def read(attention: str) -> PreTrainedModel:
        both: Any = AutoModelForCausalLM.from_pretrained(
            name, attn_implementation=attention, output_loading_info=True, **options
        )
        lm, found = both
        missing.extend(sorted(found["missing_keys"]))
        return lm  # type: ignore[no-any-return]

    try:
        # Given as an object, the config is overruled by `attention`: it could name code of the hub to attend by.
        options["config"] = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
        check_layers(options["config"], _weight_names(name))
        lm = _or_eager(read, attention)
    except UserError:
        raise
    except Exception as error:  # libraries raise errors of all kinds on files that are damaged, or of another format
        if needs_code(name, error, trust_remote_code):
            raise UserError(foreign_code(name)) from error
        if "ignore_mismatched_sizes" in str(error):  # the text advises to draw those weights at random
            shapes = _other_shape(name, options["config"])
            raise UserError(f"weights and config of '{name}' do not belong together: {shapes}") from error
        raise UserError(
            f"no causal language model at '{name}' ({reason(error)}); give a hub name, a folder with config.json "
            "and weights, a .ckpt file of this package, or sizes such as `model: {architecture: llama, layers: 2}`"
            + _newest_checkpoint(name)
        ) from error
    if missing:  # transformers draws them at random, with a warning
        raise UserError(
            f"'{name}' lacks {len(missing)} of the model's weights, such as '{missing[0]}': a file is missing, or they "
            "are of another kind of model than config.json says; copy or download it again"
        )
    return use_faster_modules(lm)


def _newest_checkpoint(name: str) -> str:
    """What to give in place of a folder of a transformers or TRL run that has its models in folders of their own."""
    steps = [
        (int(path.name.removeprefix("checkpoint-")), path)
        for path in Path(name).glob("checkpoint-*")
        if path.name.removeprefix("checkpoint-").isdecimal()
    ]
    return f"; the newest model of that run is in '{max(steps)[1]}'" if steps else ""


def _weight_names(name: str) -> set[str] | None:
    """The names of the weights in a folder's safetensors files; None where there are none, as for a hub name."""
    names: set[str] = set()
    for path in Path(name).glob("*.safetensors"):
        try:
            with safe_open(path, framework="pt") as file:
                names.update(file.keys())
        except SafetensorError as error:
            raise UserError(f"'{path}' is damaged ({error}); copy or download it again") from error
    return names or None


def _other_shape(name: str, config: PretrainedConfig) -> str:
    """The first weight of a folder whose shape is not that of its config, in words."""
    with torch.device("meta"):  # shapes alone, no memory
        expected = {
            key: list(value.shape) for key, value in AutoModelForCausalLM.from_config(config).state_dict().items()
        }
    for path in Path(name).glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (it is no dict)
                shape = file.get_slice(key).get_shape()
                if expected.get(key, shape) != shape:
                    return f"'{key}' has the shape {shape} in '{path}', and {expected[key]} by config.json"
    return "some weights have other shapes than by config.json"


def check_layers(config: PretrainedConfig, names: Collection[str] | None) -> None:
    """Refuse a config with more layers than there are weights, before a model of that size is built.

    Raises:
        ValueError: naming both numbers.
    """
    layers = getattr(config.get_text_config(), "num_hidden_layers", 0)
    if names is not None and layers > len(names):
        raise ValueError(f"the config has {layers} layers, and there are {len(names)} weights")


def reason(error: Exception) -> str:
    """Why files could not be read, in one line."""
    if isinstance(error, UnpicklingError):  # its own text advises to unpickle all the same
        return "its weights are a pickle that holds more than tensors, and so could run code; get them as safetensors"
    return first_line(error)


def needs_code(name: str, error: Exception, trusted: bool) -> bool:
    """Whether a model, a tokenizer or an encoder could not be loaded since its own Python code was not run."""
    files = {path.name for path in Path(name).glob("*")}
    beside = any(file.endswith(".py") for file in files) and not files.isdisjoint(_SETTINGS)
    return not trusted and ("trust_remote_code" in str(error) or beside)


def foreign_code(name: str) -> str:
    """What a person is told of a folder or a repository whose own Python code would have to run."""
    return (
        f"'{name}' needs Python code that it brings along, and such code does not run by itself: take a model that "
        "transformers knows, or read the code and allow it by model.trust_remote_code=true (of `export`: "
        "--trust_remote_code)"
    )


def config_to_dict(lm: PreTrainedModel) -> dict[str, Any]:
    """The config of a model, with the place of its code where that is not transformers' own."""
    config = lm.config
    foreign = {} if type(config).__module__.startswith("transformers.") else {"_name_or_path": config.name_or_path}
    return {**config.to_dict(), **foreign}


def config_from_dict(values: dict[str, Any], trust_remote_code: bool = False) -> PretrainedConfig:
    """Rebuild a config from `config_to_dict`.

    Raises:
        UserError: transformers knows no such config, and its own code may not run.
    """
    kind = values.get("model_type")
    if trust_remote_code and kind not in CONFIG_MAPPING and "_name_or_path" in values:
        known = AutoConfig.from_pretrained(values["_name_or_path"], trust_remote_code=True)
        return type(known).from_dict(values)
    try:
        return AutoConfig.for_model(**values)
    except Exception as error:
        if kind not in CONFIG_MAPPING and "auto_map" in values:
            raise UserError(foreign_code(values.get("_name_or_path") or str(kind))) from error
        raise UserError(f"the model's config is not one that transformers takes ({first_line(error)})") from error


def add_lora(lm: PreTrainedModel, spec: Lora) -> nn.Module:
    """Wrap ``lm`` with trainable low-rank adapters; everything else is frozen.

    Raises:
        UserError: if a target module does not exist.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=spec.r,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=spec.target_modules or None,
        fan_in_fan_out=lm.config.model_type == "gpt2",
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(lm, config)
    except ValueError as error:
        layers = sorted(
            {name.rsplit(".", 1)[-1] for name, module in lm.named_modules() if isinstance(module, (nn.Linear, Conv1D))}
        )
        raise UserError(f"model.lora: {error}; layers of this model: {', '.join(layers)}") from error


def base_lm(lm: nn.Module) -> PreTrainedModel:
    """The transformers model inside, with or without adapters around it."""
    if isinstance(lm, PreTrainedModel):
        return lm
    return lm.get_base_model()  # type: ignore[operator,no-any-return]


def attention_name(lm: PreTrainedModel) -> str:
    """The attention implementation in use: ``sdpa``, ``eager``, or another registered name."""
    return str(lm.config._attn_implementation)


@contextmanager
def attention_function(lm: PreTrainedModel, name: str) -> Iterator[None]:
    """Within the context ``lm`` attends by the function registered under ``name``."""
    before = attention_name(lm)
    # Set directly: `set_attn_implementation` validates the name on every call, and this runs once a token.
    lm.config._attn_implementation = name
    try:
        yield
    finally:
        lm.config._attn_implementation = before


def takes_attention_functions(lm: PreTrainedModel) -> bool:
    """Whether the blocks of ``lm`` look their attention up by name, so that it can be replaced."""
    return bool(lm._supports_attention_backend)


def blocks(lm: nn.Module) -> list[GradientCheckpointingLayer]:
    """The transformer blocks of ``lm`` in order, with or without adapters around it; none of any other module."""
    # Architectures differ in the class of their blocks and in where they keep them; all share this base class.
    return [module for module in lm.modules() if isinstance(module, GradientCheckpointingLayer)]


def end_ids(lm: nn.Module, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every id that ends a completion: the tokenizer's, then those of the model's generation config."""
    stops = getattr(base_lm(lm).generation_config, "eos_token_id", None)
    others = stops if isinstance(stops, list) else [stops]
    return list(dict.fromkeys(stop for stop in (tokenizer.eos_token_id, *others) if stop is not None))


def add_end_id(lm: nn.Module, token: int) -> None:
    """Let ``token`` end completions too: here, from the model's checkpoints, and where it is exported to."""
    settings: Any = base_lm(lm).generation_config
    stops = settings.eos_token_id if isinstance(settings.eos_token_id, list) else [settings.eos_token_id]
    settings.eos_token_id = list(dict.fromkeys(stop for stop in (*stops, token) if stop is not None))


def max_positions(lm: nn.Module) -> int | None:
    """Longest sequence that the model can read; None if its config sets no limit."""
    return getattr(base_lm(lm).config.get_text_config(), "max_position_embeddings", None)


def check_vocabulary(lm: nn.Module, tokenizer_size: int) -> None:
    """Refuse a tokenizer with more ids than the model has embeddings.

    Raises:
        UserError: naming both sizes.
    """
    rows = len(base_lm(lm).get_input_embeddings().weight)  # type: ignore[arg-type]
    if tokenizer_size > rows:
        raise UserError(
            f"the tokenizer has {tokenizer_size} tokens but the model embeds {rows}: they do not belong together; "
            "leave `tokenizer` out to take the model's own"
        )
