"""``lit-narrative export``: a checkpoint in the form that other libraries read."""

from pathlib import Path
from typing import Literal

from lit_narrative.errors import UserError


def export(
    checkpoint: str,
    folder: str,
    what: Literal["model", "adapter", "sae", "reward"] = "model",
    trust_remote_code: bool = False,
    base: str | None = None,
) -> None:
    """Write a checkpoint as a folder that transformers, PEFT, SAELens or sentence-transformers reads.

    Args:
        checkpoint: a file such as ``runs/storyworld/cycle/checkpoints/last.ckpt``.
        folder: the new folder.
        what: ``model`` for transformers, with adapters merged; ``adapter`` for PEFT; ``sae`` for SAELens;
            ``reward`` for sentence-transformers, with the reward head beside the encoder.
        trust_remote_code: run the Python code of the model folder, or of the encoder, that the checkpoint was trained
            from.
        base: where the model is that adapters were trained on, if it is no longer where it was.

    Raises:
        UserError: the folder is there already, or the checkpoint does not hold what is asked for.
    """
    if base is not None and what not in ("model", "adapter"):
        raise UserError(f"--base is of adapters, and '{what}' has none; leave it out")
    if Path(folder).exists():
        raise UserError(f"'{folder}' exists already: name a new folder")
    if what == "sae":
        print(_export_sae(checkpoint, folder))
        return
    if what == "reward":
        print(_export_reward(checkpoint, folder, trust_remote_code))
        return
    from lit_narrative.lm.checkpoint import export_adapter, export_model

    print((export_adapter if what == "adapter" else export_model)(checkpoint, folder, trust_remote_code, base))


def _export_sae(checkpoint: str, folder: str) -> Path:
    from lit_narrative.lm.checkpoint import load_checkpoint
    from lit_narrative.modules.sae import SAEModule

    kept = _kept_saes(Path(checkpoint))
    if Path(checkpoint).is_dir() and kept:
        raise UserError(f"'{checkpoint}' is the folder of a run, not a checkpoint{kept}")
    if "sae.b_dec" not in load_checkpoint(checkpoint)["state_dict"]:
        raise UserError(f"{checkpoint} holds no autoencoder; give a checkpoint of SAEModule{kept}")
    return SAEModule.load_from_checkpoint(checkpoint, map_location="cpu").save(folder)


def _kept_saes(checkpoint: Path) -> str:
    """Where the run of a checkpoint, or of a folder, keeps the autoencoders of its cycles; empty where it has none."""
    # runs/cycle, runs/cycle/checkpoints or runs/cycle/checkpoints/last.ckpt
    for folder in [checkpoint, *checkpoint.parents][:3]:
        if saes := sorted(
            (path.parent for path in folder.glob("sae/*/cfg.json")), key=lambda sae: (len(sae.name), sae)
        ):
            where = f"'{folder / 'sae'}' ({len(saes)}, such as '{saes[-1]}')"
            return f"; the autoencoders of this run stand in {where}, each a folder that SAELens reads as it is"
    return ""


def _export_reward(checkpoint: str, folder: str, trust_remote_code: bool) -> Path:
    from lit_narrative.rl.rewards.model import RewardModel

    return RewardModel.load(checkpoint, trust_remote_code).save(folder)
