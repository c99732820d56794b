"""The language model inside a Lightning checkpoint, and its export to the formats of transformers and peft.

Config and tokenizer are stored beside the weights. All content is plain values and tensors, so the file is read with
``weights_only``: no pickled code, no network, no original folder.
"""

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lit_narrative.adapters import merge_adapters
from lit_narrative.errors import UserError, first_line
from lit_narrative.files import atomic_folder
from lit_narrative.lm.adapter_folder import is_adapter_folder
from lit_narrative.lm.base_model import BaseModel, find_base
from lit_narrative.lm.load import (
    Attention,
    Dtype,
    Lora,
    add_lora,
    base_lm,
    build_lm,
    check_layers,
    config_from_dict,
    config_to_dict,
    load_lm,
)
from lit_narrative.lm.tokenizer import tokenizer_files, tokenizer_from_files
from lit_narrative.lm.vectors.inject import describe_injector, restore_injector

LANGUAGE_MODEL = "language_model"
PREFIX = "lm."
REFERENCE = "reference"
"""Name of a reference policy: of a module beside the policy, or of a set of adapters within it."""
ANOTHER = "give another checkpoint"


def store_language_model(
    checkpoint: dict[str, Any], lm: nn.Module, tokenizer: PreTrainedTokenizerBase, base: BaseModel | None = None
) -> None:
    """Add config and tokenizer to ``checkpoint``.

    Args:
        checkpoint: what Lightning is about to write; its ``state_dict`` names the model ``lm``.
        lm: the model, with or without adapters.
        tokenizer: its tokenizer.
        base: of adapters or of a head on a frozen model, where it has a hub name or a folder: it is left out. Any other
            is stored whole.
    """
    if base:
        trained = {PREFIX + name for name, parameter in lm.named_parameters() if parameter.requires_grad}
        state = checkpoint["state_dict"]
        kept = {name for name in state if name in trained or of_reference(name)}
        # Lightning writes this very dictionary, so that names are deleted in place.
        for name in [name for name in state if name.startswith(PREFIX) and name not in kept]:
            del state[name]
    checkpoint[LANGUAGE_MODEL] = {
        "config": plain_config(lm),
        "generation": _plain(base_lm(lm).generation_config.to_diff_dict()),  # type: ignore[union-attr]
        "tokenizer": tokenizer_files(tokenizer),
        "base": base.name if base else None,
        "base_files": [base.size, base.sha256] if base else None,
        "injection": describe_injector(lm),
    }


def restore_language_model(
    checkpoint: dict[str, Any],
    *,
    dtype: Dtype = "float32",
    attention: Attention = "sdpa",
    trust_remote_code: bool = False,
    base: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Build the model (random weights, or the named base of adapters) and the tokenizer of a checkpoint.

    Args:
        checkpoint: as it was read.
        dtype: of the weights.
        attention: the attention implementation.
        trust_remote_code: run the Python code of the model that the checkpoint was trained from.
        base: where the base of adapters may be, if it is no longer where it was; ``checkpoint`` then says so.

    Raises:
        UserError: it holds no language model, one of other sizes than its weights, or one that needs code of its own;
            or the base of adapters is not there, or has changed.
    """
    stored, tokenizer = _stored(checkpoint), stored_tokenizer(checkpoint, trust_remote_code)
    if known := stored_base(checkpoint):
        found = find_base(known, base)
        stored["base"] = found.name
        try:
            lm = load_lm(found.name, dtype=dtype, attention=attention, trust_remote_code=trust_remote_code)
        except UserError as error:
            raise UserError(f"its base model: {error}") from error
    else:
        config = config_from_dict(stored["config"], trust_remote_code)
        _check_sizes(config, checkpoint["state_dict"], trust_remote_code)
        lm = build_lm(config, dtype=dtype, attention=attention, trust_remote_code=trust_remote_code)
    if stored.get("injection"):
        restore_injector(lm, stored["injection"])
    if "generation" in stored:  # earlier versions kept the end tokens alone, in the config
        lm.generation_config = GenerationConfig.from_dict(stored["generation"])
    return lm, tokenizer


def _check_sizes(config: PretrainedConfig, state: Mapping[str, torch.Tensor], trust_remote_code: bool) -> None:
    """Refuse a config that is not of the weights' sizes, before a model of its sizes takes all memory.

    Raises:
        UserError: naming the first weight that has another shape.
    """
    # With adapters, peft has put the model's weights under other names.
    plain = {
        name.removeprefix(PREFIX).removeprefix("base_model.model.").replace(".base_layer", ""): value.shape
        for name, value in state.items()
        if name.startswith(PREFIX)
    }
    try:
        check_layers(config, plain or None)
        with torch.device("meta"):  # shapes alone, no memory
            lm = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise UserError(f"the checkpoint's model config cannot be built ({first_line(error)}); {ANOTHER}") from error
    for name, value in lm.state_dict().items():
        if name in plain and plain[name] != value.shape:
            raise UserError(
                f"the checkpoint is damaged: its weight '{name}' has shape {tuple(plain[name])}, and by its config "
                f"{tuple(value.shape)}; {ANOTHER}"
            )


def stored_tokenizer(checkpoint: dict[str, Any], trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint."""
    return tokenizer_from_files(_stored(checkpoint)["tokenizer"], trust_remote_code)


def stored_base(checkpoint: dict[str, Any]) -> BaseModel | None:
    """The base of a checkpoint's adapters; None where the checkpoint holds all weights."""
    stored = _stored(checkpoint)
    return BaseModel(stored["base"], *(stored.get("base_files") or ())) if stored["base"] else None


def fits(checkpoint: dict[str, Any], lm: nn.Module, base: BaseModel | None) -> bool:
    """Whether ``lm`` is the model that `restore_language_model` would build, apart from its weights.

    Args:
        checkpoint: as Lightning has read it.
        lm: a model, with or without adapters.
        base: of the adapters of ``lm``, compared if the file holds adapters only.
    """
    known = stored_base(checkpoint)
    same = not known or known.same(base)
    stored = _stored(checkpoint)
    same = same and stored.get("injection") == describe_injector(lm)
    return same and stored["config"] == plain_config(lm)


def read_language_model(
    path: str | Path,
    *,
    dtype: Dtype = "float32",
    attention: Attention = "sdpa",
    trust_remote_code: bool = False,
    base: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Read model, weights and tokenizer from a checkpoint of this package; adapters are merged into the weights.

    Raises:
        UserError: the file is missing or holds no language model, or one that needs code of its own.
    """
    checkpoint = load_checkpoint(path)
    if LANGUAGE_MODEL not in checkpoint:
        raise UserError(f"{path} holds no language model; give a checkpoint that SFTModule or GRPOModule wrote")
    drop_reference(checkpoint["state_dict"])
    with naming_checkpoint(path):
        lm, tokenizer = restore_language_model(
            checkpoint, dtype=dtype, attention=attention, trust_remote_code=trust_remote_code, base=base
        )
        weights = {
            name.removeprefix(PREFIX): value
            for name, value in checkpoint["state_dict"].items()
            if name.startswith(PREFIX)
        }
        lora = checkpoint.get("hyper_parameters", {}).get("lora")
        if lora:
            lm = _merge_adapters(lm, weights, lora)
        elif not stored_base(checkpoint):
            _load_weights(lm, weights)
    return lm, tokenizer


@contextmanager
def naming_checkpoint(path: str | Path) -> Iterator[None]:
    """Within it, what is wrong with the content of a checkpoint is said with its path."""
    try:
        yield
    except UserError as error:
        raise UserError(f"'{path}': {error}") from error
    except KeyError as error:
        raise UserError(f"'{path}' is damaged: it has no {error}; {ANOTHER}") from error


def _load_weights(lm: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    try:
        lm.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"the checkpoint is damaged: {' '.join(str(error).split())[:300]}; {ANOTHER}") from error


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without unpickling anything but plain values.

    Raises:
        UserError: there is no such file, it is damaged, or it holds more than plain values.
    """
    if not Path(path).is_file():
        raise UserError(f"no checkpoint at '{path}'; train one first or give another path")
    try:
        # Mapped and not read: of a file with optimizer states only the weights are touched.
        checkpoint: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises errors of all kinds on files that are cut off or damaged
        raise UserError(f"'{path}' is not a checkpoint that can be read safely: {_why(error)}; {ANOTHER}") from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise UserError(f"'{path}' is not a checkpoint of Lightning: it has no 'state_dict'; {ANOTHER}")
    return checkpoint


def _why(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):  # its own text advises to unpickle all the same
        return "it holds objects, which could run code, or is damaged"
    return first_line(error)


def drop_reference(state: dict[str, torch.Tensor]) -> None:
    """Remove the weights of a reference policy from ``state``: only further training needs them."""
    for name in [name for name in state if of_reference(name)]:
        del state[name]


def keep_policy(state: dict[str, torch.Tensor], *beside: str) -> None:
    """Delete from a checkpoint's weights all but the policy's, and those whose names begin with one of ``beside``."""
    drop_reference(state)
    for name in [name for name in state if not name.startswith((PREFIX, *beside))]:
        del state[name]


def of_reference(name: str) -> bool:
    """Whether a weight of this name belongs to a reference policy."""
    return name.startswith(f"{REFERENCE}.") or f".{REFERENCE}." in name


def check_adapters(lm: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Refuse weights that lack an adapter's; those of the base may be missing.

    Raises:
        UserError: naming the first weight that is missing, unknown, or of another shape.
    """
    known = {PREFIX + name: value.shape for name, value in lm.state_dict().items()}
    trained = {PREFIX + name for name, parameter in lm.named_parameters() if parameter.requires_grad}
    stored = {name for name in state if name.startswith(PREFIX)}
    if wrong := sorted((trained - stored) | (stored - known.keys())):
        raise UserError(f"the checkpoint's adapters are not those of this model: '{wrong[0]}' is on one side only")
    if other := sorted(name for name in stored if state[name].shape != known[name]):
        shapes = f"{tuple(state[other[0]].shape)} there and {tuple(known[other[0]])} here"
        raise UserError(
            f"the checkpoint's adapters are not those of this model: '{other[0]}' has shape {shapes}; give the "
            "model.lora of its run"
        )


def export_model(
    checkpoint: str | Path, folder: str | Path, trust_remote_code: bool = False, base: str | None = None
) -> Path:
    """Write model and tokenizer as a folder that ``transformers`` reads; adapters are merged into the weights.

    Raises:
        UserError: the checkpoint is missing or holds no language model, or the base of its adapters is missing or
            another than it was, at its place and at ``base``.
    """
    lm, tokenizer = read_language_model(checkpoint, trust_remote_code=trust_remote_code, base=base)
    # Adapters are merged in float32 and rounded once.
    lm.to(_run_dtype(load_checkpoint(checkpoint)))  # type: ignore[arg-type]
    lm._modules.pop("injector", None)  # transformers knows of none, and would warn of its weights
    with atomic_folder(folder) as scratch:
        write_model(lm, tokenizer, scratch)
    return Path(folder)


def write_model(
    lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, state: dict[str, Any] | None = None
) -> None:
    """Fill a folder with a model and its tokenizer; ``state`` are its weights, where they are not whole in it."""
    # As they are: `save_pretrained` refuses what published models have, such as a temperature without sampling.
    generation, lm.generation_config = lm.generation_config, GenerationConfig()
    try:
        lm.save_pretrained(folder, state_dict=state)
    finally:
        lm.generation_config = generation
    generation.to_json_file(folder / "generation_config.json")  # type: ignore[union-attr]
    tokenizer.save_pretrained(folder)


def _run_dtype(checkpoint: dict[str, Any]) -> torch.dtype:
    """The floating-point type of the weights that a checkpoint was trained in."""
    given = checkpoint.get("hyper_parameters", {})
    if given.get("lora") and given.get("dtype", "float32") != "float32":
        return getattr(torch, given["dtype"])  # type: ignore[no-any-return]  # peft keeps the adapters in float32
    policy = (value.dtype for name, value in checkpoint["state_dict"].items() if name.startswith(PREFIX))
    return reduce(torch.promote_types, (dtype for dtype in policy if dtype.is_floating_point))


def export_adapter(
    checkpoint: str | Path, folder: str | Path, trust_remote_code: bool = False, base: str | None = None
) -> Path:
    """Write the adapters and the tokenizer as a folder that ``peft`` reads.

    Raises:
        UserError: the checkpoint is missing, holds no adapters, or their base is nowhere but in it, or is missing or
            another than it was, at its place and at ``base``.
    """
    content = load_checkpoint(checkpoint)
    if LANGUAGE_MODEL not in content or not content["hyper_parameters"].get("lora"):
        raise UserError(
            f"{checkpoint} holds no adapters; give a checkpoint of a run with model.lora, or export 'model'"
        )
    if not content[LANGUAGE_MODEL]["base"]:
        raise UserError(f"the base of the adapters in {checkpoint} has no hub name or folder; export 'model'")
    drop_reference(content["state_dict"])
    if is_adapter_folder(content[LANGUAGE_MODEL]["base"]):
        raise UserError(f"the base of the adapters in {checkpoint} has adapters merged into it; export 'model'")
    with naming_checkpoint(checkpoint):
        lm, tokenizer = restore_language_model(content, trust_remote_code=trust_remote_code, base=base)
    adapted = add_lora(lm, Lora(**content["hyper_parameters"]["lora"]))
    weights = {name.removeprefix(PREFIX): value for name, value in content["state_dict"].items()}
    check_adapters(adapted, content["state_dict"])
    adapted.load_state_dict(weights, strict=False)
    with atomic_folder(folder) as scratch:
        adapted.save_pretrained(scratch)  # type: ignore[operator]
        tokenizer.save_pretrained(scratch)
    return Path(folder)


def _stored(checkpoint: dict[str, Any]) -> dict[str, Any]:
    if LANGUAGE_MODEL not in checkpoint:
        raise UserError("this checkpoint holds no language model; was it written by another module or package?")
    stored: dict[str, Any] = checkpoint[LANGUAGE_MODEL]
    match stored:
        case {"config": dict(), "tokenizer": dict(files), "base": str() | None}:
            plain = all(isinstance(name, str) and isinstance(content, str | bytes) for name, content in files.items())
            plain = plain and isinstance(stored.get("generation", {}), dict)
            plain = plain and isinstance(stored.get("injection"), dict | None)
            if plain and _is_base_files(stored.get("base_files")):
                return stored
    raise UserError(f"the checkpoint is damaged: its model's config, tokenizer or base is none; {ANOTHER}")


def _is_base_files(value: Any) -> bool:
    match value:
        case None | [int() | None, str() | None]:
            return True
    return False


def _merge_adapters(lm: PreTrainedModel, weights: dict[str, torch.Tensor], lora: dict[str, Any]) -> PreTrainedModel:
    adapted = add_lora(lm, Lora(**lora))
    check_adapters(adapted, {PREFIX + name: value for name, value in weights.items()})
    adapted.load_state_dict(weights, strict=False)
    return merge_adapters(adapted)


def plain_config(lm: nn.Module) -> dict[str, Any]:
    """The config of a model, with or without adapters around it, as a reader with ``weights_only`` accepts it."""
    config: dict[str, Any] = _plain(config_to_dict(base_lm(lm)))
    return config


def _plain(value: Any) -> Any:
    """Config values as a reader with ``weights_only`` accepts them: names of enums and dtypes become text."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
