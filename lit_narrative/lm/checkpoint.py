"""The language model inside a Lightning checkpoint, and its export to the formats of transformers and peft.

Config and tokenizer are stored beside the weights. All content is plain values and tensors, so the file is read with
``weights_only``: no pickled code, no network, no original folder.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lit_narrative.errors import UserError, first_line
from lit_narrative.files import atomic_folder
from lit_narrative.lm.load import Attention, Dtype, Lora, add_lora, base_lm, build_lm, config_from_dict, load_lm
from lit_narrative.lm.tokenizer import tokenizer_files, tokenizer_from_files

LANGUAGE_MODEL = "language_model"
PREFIX = "lm."
REFERENCE = "reference"
"""Name of a reference policy: of a module beside the policy, or of a set of adapters within it."""


def store_language_model(
    checkpoint: dict[str, Any], lm: nn.Module, tokenizer: PreTrainedTokenizerBase, base: Any = None
) -> None:
    """Add config and tokenizer to ``checkpoint``.

    Args:
        checkpoint: what Lightning is about to write; its ``state_dict`` names the model ``lm``.
        lm: the model, with or without adapters.
        tokenizer: its tokenizer.
        base: with adapters, the source of their base. A base with a hub name or a folder is stored by name, any other
            whole.
    """
    named = base if isinstance(base, str) and not base.endswith(".ckpt") else None
    if named:
        trained = {PREFIX + name for name, parameter in lm.named_parameters() if parameter.requires_grad}
        state = checkpoint["state_dict"]
        kept = {name for name in state if name in trained or of_reference(name)}
        # Lightning writes this very dictionary, so that names are deleted in place.
        for name in [name for name in state if name.startswith(PREFIX) and name not in kept]:
            del state[name]
    checkpoint[LANGUAGE_MODEL] = {
        "config": _plain(base_lm(lm).config.to_dict()),
        "tokenizer": tokenizer_files(tokenizer),
        "base": named,
    }


def restore_language_model(
    checkpoint: dict[str, Any], *, dtype: Dtype = "float32", attention: Attention = "sdpa"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Build the model (random weights, or the named base of adapters) and the tokenizer of a checkpoint.

    Raises:
        UserError: it holds no language model.
    """
    stored, tokenizer = _stored(checkpoint), stored_tokenizer(checkpoint)
    if stored["base"]:
        return load_lm(stored["base"], dtype=dtype, attention=attention), tokenizer
    return build_lm(config_from_dict(stored["config"]), dtype=dtype, attention=attention), tokenizer


def stored_tokenizer(checkpoint: dict[str, Any]) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint."""
    return tokenizer_from_files(_stored(checkpoint)["tokenizer"])


def fits(checkpoint: dict[str, Any], lm: nn.Module, base: Any) -> bool:
    """Whether ``lm`` is the model that :func:`restore_language_model` would build, apart from its weights.

    Args:
        checkpoint: as Lightning has read it.
        lm: a model, with or without adapters.
        base: the source of ``lm``, compared if the file holds adapters only.
    """
    stored = _stored(checkpoint)
    return stored["base"] in (None, base) and stored["config"] == _plain(base_lm(lm).config.to_dict())


def read_language_model(
    path: str | Path, *, dtype: Dtype = "float32", attention: Attention = "sdpa"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Read model, weights and tokenizer from a checkpoint of this package; adapters are merged into the weights.

    Raises:
        UserError: the file is missing or holds no language model.
    """
    checkpoint = load_checkpoint(path)
    if LANGUAGE_MODEL not in checkpoint:
        raise UserError(f"{path} holds no language model; give a checkpoint that SFTModule or GRPOModule wrote")
    drop_reference(checkpoint["state_dict"])
    lm, tokenizer = restore_language_model(checkpoint, dtype=dtype, attention=attention)
    weights = {
        name.removeprefix(PREFIX): value for name, value in checkpoint["state_dict"].items() if name.startswith(PREFIX)
    }
    lora = checkpoint.get("hyper_parameters", {}).get("lora")
    if lora:
        lm = _merge_adapters(lm, weights, lora)
    else:
        lm.load_state_dict(weights)
    return lm, tokenizer


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without unpickling anything but plain values.

    Raises:
        UserError: there is no such file, it is damaged, or it holds more than plain values.
    """
    if not Path(path).is_file():
        raise UserError(f"no checkpoint at '{path}'; train one first or give another path")
    try:
        # Mapped and not read: of a file with optimizer states only the weights are touched.
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(f"'{path}' is not a checkpoint that can be read safely: {first_line(error)}") from error
    return checkpoint


def drop_reference(state: dict[str, torch.Tensor]) -> None:
    """Remove the weights of a reference policy from ``state``: only further training needs them."""
    for name in [name for name in state if of_reference(name)]:
        del state[name]


def of_reference(name: str) -> bool:
    """Whether a weight of this name belongs to a reference policy."""
    return name.startswith(f"{REFERENCE}.") or f".{REFERENCE}." in name


def check_adapters(lm: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Refuse weights that lack an adapter's; those of the base may be missing.

    Raises:
        UserError: naming the first weight that is missing or unknown.
    """
    known = {PREFIX + name for name in lm.state_dict()}
    trained = {PREFIX + name for name, parameter in lm.named_parameters() if parameter.requires_grad}
    stored = {name for name in state if name.startswith(PREFIX)}
    if wrong := sorted((trained - stored) | (stored - known)):
        raise UserError(f"the checkpoint's adapters are not those of this model: '{wrong[0]}' is on one side only")


def export_model(checkpoint: str | Path, folder: str | Path) -> Path:
    """Write model and tokenizer as a folder that ``transformers`` reads; adapters are merged into the weights.

    Raises:
        UserError: the checkpoint is missing or holds no language model.
    """
    lm, tokenizer = read_language_model(checkpoint)
    with atomic_folder(folder) as scratch:
        lm.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
    return Path(folder)


def export_adapter(checkpoint: str | Path, folder: str | Path) -> Path:
    """Write the adapters and the tokenizer as a folder that ``peft`` reads.

    Raises:
        UserError: the checkpoint is missing, holds no adapters, or their base is nowhere but in it.
    """
    content = load_checkpoint(checkpoint)
    if LANGUAGE_MODEL not in content or not content["hyper_parameters"].get("lora"):
        raise UserError(
            f"{checkpoint} holds no adapters; give a checkpoint of a run with model.lora, or export 'model'"
        )
    if not content[LANGUAGE_MODEL]["base"]:
        raise UserError(f"the base of the adapters in {checkpoint} has no hub name or folder; export 'model'")
    drop_reference(content["state_dict"])
    base, tokenizer = restore_language_model(content)
    adapted = add_lora(base, Lora(**content["hyper_parameters"]["lora"]))
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
    return stored


def _merge_adapters(lm: PreTrainedModel, weights: dict[str, torch.Tensor], lora: dict[str, Any]) -> PreTrainedModel:
    adapted = add_lora(lm, Lora(**lora))
    check_adapters(adapted, {PREFIX + name: value for name, value in weights.items()})
    adapted.load_state_dict(weights, strict=False)
    return adapted.merge_and_unload()  # type: ignore[operator,no-any-return]


def _plain(value: Any) -> Any:
    """Config values as a reader with ``weights_only`` accepts them: names of enums and dtypes become text."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
