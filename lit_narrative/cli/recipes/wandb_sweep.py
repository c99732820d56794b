"""The same sweep on W&B's sweeper: its agents, on as many machines as one likes, take run after run."""

import os
from collections.abc import Sequence

import yaml

from lit_narrative.cli.recipes.results import FAILED, Row
from lit_narrative.cli.recipes.sweep import Sweep


def sweep_configuration(sweep: Sweep, changes: Sequence[str] = ()) -> str:
    """What ``wandb sweep`` reads: a grid over the keys of the runs, each by ``lit-narrative sweep --only``.

    Args:
        sweep: the whole.
        changes: ``--set`` of every run.
    """
    command = ["lit-narrative", "sweep", str(sweep.path.resolve()), f"--out={sweep.out.resolve()}"]
    command += [f"--set={change}" for change in changes]
    content = {
        "name": sweep.path.stem,
        "program": "lit-narrative",
        "method": "grid",
        "command": ["${env}", *command, "${args}"],
        "parameters": {"only": {"values": [run.key for run in sweep.runs]}},
    }
    return yaml.safe_dump(content, sort_keys=False)


def log_to_wandb(row: Row) -> None:
    """Tell the sweeper of a run; nothing where none of its agents started this process."""
    if "WANDB_SWEEP_ID" not in os.environ:
        return
    import wandb

    with wandb.init(config={"key": row.key, "seed": row.seed, "num_prompts": row.num_prompts}) as run:
        run.log(dict(row.metrics))
        run.summary["status"] = row.status
        if row.status == FAILED:
            run.summary["error"] = row.error
