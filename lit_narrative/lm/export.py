"""A checkpoint in the forms that other libraries read."""

from pathlib import Path

from lit_narrative.errors import UserError
from lit_narrative.files import whole_folder
from lit_narrative.lm.checkpoint import (
    LANGUAGE_MODEL,
    PREFIX,
    check_adapters,
    drop_reference,
    load_checkpoint,
    read_language_model,
    restore_language_model,
)
from lit_narrative.lm.load import Lora, add_lora


def export_model(checkpoint: str | Path, folder: str | Path) -> Path:
    """Write model and tokenizer as a folder that ``transformers`` reads; adapters are merged into the weights.

    Raises:
        UserError: the checkpoint is missing or holds no language model.
    """
    lm, tokenizer = read_language_model(checkpoint)
    with whole_folder(folder) as scratch:
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
        raise UserError(f"the base of the adapters in {checkpoint} has no name or folder of its own; export 'model'")
    drop_reference(content["state_dict"])
    base, tokenizer = restore_language_model(content)
    adapted = add_lora(base, Lora(**content["hyper_parameters"]["lora"]))
    weights = {name.removeprefix(PREFIX): value for name, value in content["state_dict"].items()}
    check_adapters(adapted, content["state_dict"])
    adapted.load_state_dict(weights, strict=False)
    with whole_folder(folder) as scratch:
        adapted.save_pretrained(scratch)  # type: ignore[operator]
        tokenizer.save_pretrained(scratch)
    return Path(folder)
