"""``lit-narrative export``: a checkpoint, or a circuit, in the form that other libraries read."""

from pathlib import Path
from typing import Literal

from lit_narrative.errors import UserError
from lit_narrative.files import atomic_folder, write_text

What = Literal["model", "adapter", "sae", "reward", "judge", "importances", "graph"]
CIRCUITS = ("importances", "graph")
"""What is made of a folder of circuit analysis."""


def export(
    checkpoint: str,
    folder: str,
    what: What = "model",
    trust_remote_code: bool = False,
    base: str | None = None,
    without_card: bool = False,
    edges: int = 200,
) -> None:
    """Write a checkpoint as a folder that transformers, PEFT, SAELens or sentence-transformers reads.

    Beside it stands a model card, README.md: data, rewards, seeds, versions, results and controls from the folder of
    the run that wrote the checkpoint.

    Args:
        checkpoint: a file such as ``runs/storyworld/cycle/checkpoints/last.ckpt``; of a circuit the folder of a split,
            such as ``runs/cards/circuits/circuits/id_test``.
        folder: the new folder; for ``importances`` and ``graph`` the new file.
        what: ``model`` for transformers, with adapters merged; ``adapter`` for PEFT; ``sae`` for SAELens;
            ``reward`` for sentence-transformers, with the reward head beside the encoder; ``judge``, a judge of
            similarity, for the same; ``importances``, a circuit as EAP-IG and the MIB benchmark read it; ``graph``, its
            strongest edges as circuit-tracer's page shows them.
        trust_remote_code: run the Python code of the model folder, or of the encoder, that the checkpoint was trained
            from.
        base: where the model is that adapters were trained on, if it is no longer where it was.
        without_card: leave the model card out.
        edges: of ``graph``.

    Raises:
        UserError: the folder is there already, or the checkpoint does not hold what is asked for.
    """
    if base is not None and what not in ("model", "adapter"):
        raise UserError(f"--base is of adapters, and '{what}' has none; leave it out")
    if Path(folder).exists():
        raise UserError(f"'{folder}' exists already: name a new folder")
    if what == "importances" or what == "graph":
        print(_export_circuit(checkpoint, folder, what, edges))
        return
    written = (
        _card(checkpoint, what) if not without_card else None
    )  # first: what is wrong with a run's files is cheap to find
    with atomic_folder(folder) as scratch:
        _write(checkpoint, scratch, what, trust_remote_code, base)
        if written is not None:
            write_text(scratch / "README.md", written)
        elif (other := scratch / "README.md").exists():
            other.unlink()  # PEFT's own, a form to fill in
    print(folder)


def _write(checkpoint: str, folder: Path, what: What, trust_remote_code: bool, base: str | None) -> None:
    if what == "sae":
        _export_sae(checkpoint, folder)
    elif what == "reward":
        from lit_narrative.rl.rewards.model import RewardModel

        RewardModel.load(checkpoint, trust_remote_code).save(folder)
    elif what == "judge":
        from lit_narrative.rl.rewards.similarity import SimilarityModel

        if not Path(checkpoint).is_file():
            raise UserError(f"there is no checkpoint '{checkpoint}'; give a file that SimilarityModule wrote")
        SimilarityModel.load(checkpoint, trust_remote_code, "checkpoint").save(folder)
    else:
        from lit_narrative.lm.checkpoint import export_adapter, export_model

        (export_adapter if what == "adapter" else export_model)(checkpoint, folder, trust_remote_code, base)


def _card(checkpoint: str, what: What) -> str:
    from lit_narrative.cli.commands.report import find_learned, noted_report
    from lit_narrative.report.model_card import find_stages, model_card

    learned: list[str] = []
    stages = find_stages(Path(checkpoint))
    if stages and (stages[0].folder.parent / "summary.json").is_file():
        run = stages[0].folder.parent
        report, _ = noted_report(run)
        # A report named by its path is code that a run folder brought along, which is not run.
        say = find_learned(report) if report.isidentifier() else None
        learned = say(run) if say else []
    return model_card(Path(checkpoint), what, learned)  # type: ignore[arg-type]


def _export_circuit(folder: str, file: str, what: Literal["importances", "graph"], edges: int) -> Path:
    from lit_narrative.circuits.exchange import write_importances, write_tracer_graph

    if what == "importances":
        return write_importances(folder, file)
    return write_tracer_graph(folder, file, edges)


def _export_sae(checkpoint: str, folder: Path) -> None:
    from lit_narrative.lm.checkpoint import load_checkpoint
    from lit_narrative.modules.sae import SAEModule

    kept = _kept_saes(Path(checkpoint))
    if Path(checkpoint).is_dir() and kept:
        raise UserError(f"'{checkpoint}' is the folder of a run, not a checkpoint{kept}")
    if "sae.b_dec" not in load_checkpoint(checkpoint)["state_dict"]:
        raise UserError(f"{checkpoint} holds no autoencoder; give a checkpoint of SAEModule{kept}")
    SAEModule.load_from_checkpoint(checkpoint, map_location="cpu").save(folder)


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
