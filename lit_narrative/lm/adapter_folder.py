"""Folders of adapters as PEFT writes them, and as ``export --what adapter`` does."""

import json
import os
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from lit_narrative.errors import UserError, first_line

_CONFIG = "adapter_config.json"
_SETTINGS = {"r": "r", "alpha": "lora_alpha", "dropout": "lora_dropout", "target_modules": "target_modules"}
"""Our settings of adapters by PEFT's names."""
_INDIFFERENT = {
    "auto_mapping",
    "base_model_name_or_path",
    "fan_in_fan_out",
    "inference_mode",
    "peft_version",
    "task_type",
}
"""PEFT's settings that say nothing of what adapters compute, or follow from the model."""
_KEEPS_BASE = (True, False, "gaussian", "eva", "orthogonal", "mica")
"""Values of ``init_lora_weights`` that leave the base's weights as they are; PiSSA and others take a part out."""


def is_adapter_folder(name: str) -> bool:
    """Whether ``name`` is a folder of adapters over a model that is elsewhere."""
    return Path(name, _CONFIG).is_file()


def adapter_base(folder: str) -> str:
    """The hub name or the path of the model that adapters were trained on.

    Raises:
        UserError: the folder names none, or one that is not there.
    """
    name = _read_config(folder).base_model_name_or_path
    if name and os.path.realpath(name) == os.path.realpath(folder):
        raise UserError(f"{Path(folder, _CONFIG)} names its own folder as base_model_name_or_path: write the model's")
    if not name or (os.path.isabs(name) and not Path(name).is_dir()):
        raise UserError(
            f"the base of the adapters in '{folder}' is not at {name!r}: write where it is into "
            f"{Path(folder, _CONFIG)}, as base_model_name_or_path"
        )
    return str(name)


def load_adapters(lm: PreTrainedModel, folder: str) -> Any:
    """Put the adapters of a folder around ``lm``, ready to be trained.

    Raises:
        UserError: the files are damaged, or are not of adapters on this model.
    """
    from peft import get_peft_model, load_peft_weights, set_peft_model_state_dict

    config = _read_config(folder)
    config.inference_mode, config.task_type = False, "CAUSAL_LM"
    try:
        adapted = get_peft_model(lm, config)
        result = set_peft_model_state_dict(adapted, load_peft_weights(folder, device="cpu"))
    except Exception as error:  # peft and safetensors raise errors of all kinds on files that do not fit
        raise UserError(f"the adapters in '{folder}' do not fit their base ({first_line(error)})") from error
    # What two layers share has a name in each of them, and stands in the files under one.
    owned = {name for name, _ in adapted.named_parameters()}
    missing = [key for key in result.missing_keys if ".default" in key and key in owned]
    if wrong := sorted([*result.unexpected_keys, *missing]):
        raise UserError(f"the adapters in '{folder}' do not fit their base: '{wrong[0]}' is on one side only")
    return adapted


def lora_settings(folder: str) -> dict[str, Any]:
    """The arguments of `~lit_narrative.lm.load.Lora` for adapters like those of a folder.

    Raises:
        UserError: it has none, or adapters that no such settings describe.
    """
    from peft import LoraConfig

    if not is_adapter_folder(folder):
        raise UserError(
            f"model.adapters=train, but '{folder}' has no {_CONFIG}: name a folder of PEFT's adapters as model.model, "
            "or leave the setting out"
        )
    theirs = _read_config(folder).to_dict()
    ours = LoraConfig(**{key: theirs.get(key) for key in _SETTINGS.values()}).to_dict()
    other = [key for key in theirs if key not in _INDIFFERENT and theirs[key] != ours.get(key)]
    if theirs.get("init_lora_weights") in _KEEPS_BASE:
        other = [key for key in other if key != "init_lora_weights"]
    if isinstance(theirs.get("target_modules"), str):
        other.append("target_modules")
    if other:
        raise UserError(
            f"the adapters in '{folder}' cannot be trained on here, for their {', '.join(other)}: merge them "
            "(model.adapters=merge), and train the weights or new adapters"
        )
    settings = {ours: theirs[key] for ours, key in _SETTINGS.items()}
    return {**settings, "target_modules": sorted(settings["target_modules"])}


def _read_config(folder: str) -> Any:
    from peft import PeftConfig

    try:
        return PeftConfig.from_pretrained(folder)
    except (ValueError, TypeError, KeyError, OSError, json.JSONDecodeError) as error:
        raise UserError(f"{Path(folder, _CONFIG)} cannot be read ({first_line(error)})") from error
