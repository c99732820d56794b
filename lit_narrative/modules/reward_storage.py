"""A reward model's encoder in its checkpoint, and all of the model as a folder for others."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lit_narrative.errors import UserError
from lit_narrative.files import whole_folder, write_json
from lit_narrative.lm.embeddings import (
    PROBE,
    StaticEncoder,
    encode,
    encoder_files,
    encoder_from_files,
    load_encoder,
)
from lit_narrative.lm.reward_head import RewardHead

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

REWARD = "reward"
PREFIX = "encoder."
MOST = 64 * 2**20
"""Bytes up to which the files of a frozen encoder from a folder ride in the checkpoint."""


def store_encoder(
    checkpoint: dict[str, Any], encoder: "SentenceTransformer", source: str | StaticEncoder, finetuned: bool
) -> None:
    """Add the encoder to ``checkpoint``: its files, or its name and how it is known again.

    A trained encoder, the built-in one and a small one from a folder ride along; a big one or one of the hub is named.
    """
    state = checkpoint["state_dict"]
    for name in [name for name in state if name.startswith(PREFIX)]:
        del state[name]  # the files hold the weights
    local = not isinstance(source, str) or Path(source).is_dir()
    files = encoder_files(encoder) if local or finetuned else {}
    if files and (finetuned or sum(map(len, files.values())) <= MOST):
        checkpoint[REWARD] = {"files": files}
    else:
        name = str(Path(str(source)).resolve()) if local else source
        checkpoint[REWARD] = {"name": name, "probe": encode(encoder, PROBE).cpu().clone()}


def restore_encoder(checkpoint: dict[str, Any]) -> "SentenceTransformer":
    """The encoder of a checkpoint, whose weights go back to where Lightning looks for them.

    Raises:
        UserError: the checkpoint holds no reward model, or the encoder that it names is missing or another one now.
    """
    if REWARD not in checkpoint:
        raise UserError("this checkpoint holds no reward model; give one that RewardModule wrote")
    stored = checkpoint[REWARD]
    encoder = encoder_from_files(stored["files"]) if "files" in stored else load_encoder(stored["name"])
    if "probe" in stored:
        found = encode(encoder, PROBE).cpu()
        if found.shape != stored["probe"].shape or not torch.allclose(found, stored["probe"], atol=1e-3, rtol=1e-2):
            raise UserError(
                f"the encoder at '{stored['name']}' gives other vectors than when this reward model was trained; put "
                "that encoder back, or train the reward model anew"
            )
    checkpoint["state_dict"].update({PREFIX + name: value for name, value in encoder.state_dict().items()})
    return encoder


def save_reward(encoder: "SentenceTransformer", head: RewardHead, folder: str | Path) -> Path:
    """Write a folder that ``SentenceTransformer`` reads, with the head beside it.

    ``reward_head.safetensors`` holds the head's weights and units, ``reward_head.json`` the arguments of
    :class:`RewardHead`. The score of a vector is ``score_mean + score_deviation * network(x)``, where x is
    ``(vector - mean) / deviation``, cut off at ``limit``.
    """
    from safetensors.torch import save_file

    with whole_folder(folder) as scratch:
        encoder.save_pretrained(str(scratch), create_model_card=False)
        weights = {name: value.cpu().contiguous() for name, value in head.state_dict().items()}
        save_file(weights, scratch / "reward_head.safetensors")
        write_json(scratch / "reward_head.json", head.settings)
    return Path(folder)
