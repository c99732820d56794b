"""The circuit analysis: how large the residual stream is behind each block."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lit_narrative.circuits.analysis import (
    SPLITS,
    About,
    Analysis,
    AnalysisJob,
    AnalysisSettings,
    CircuitResults,
    Metrics,
    Models,
    Sketch,
    Table,
    shared,
)
from lit_narrative.circuits.bridge import shape
from lit_narrative.circuits.figures.canvas import sheet
from lit_narrative.circuits.hooks import Progress, capture
from lit_narrative.circuits.tables import read_rows, write_rows


@dataclass(frozen=True)
class NormSettings(AnalysisSettings):
    """What is read.

    Args:
        rows: of each split at most.
    """

    rows: int = 64


@dataclass(frozen=True)
class Norm:
    """The mean length of the residual stream's vectors behind a block."""

    layer: int
    norm: float


def load(folder: Path) -> tuple[Norm, ...]:
    """Read what `run` wrote for a split."""
    return read_rows(folder / "norms.csv", Norm)


def run(job: AnalysisJob, folder: Path, progress: Progress | None) -> Metrics:
    """Read the rows of each split once, and write a table for it."""
    metrics = {}
    hooks = [f"blocks.{layer}.hook_resid_post" for layer in range(shape(job.bridge).layers)]
    for split, inputs in job.data.inputs.items():
        inputs = inputs.rows(slice(job.settings_of(NormSettings).rows))
        _, kept = capture(job.bridge, inputs, hooks)
        means = [kept[hook].norm(dim=-1)[inputs.mask].mean().item() for hook in hooks]
        write_rows(folder / split / "norms.csv", Norm, [Norm(layer, mean) for layer, mean in enumerate(means)])
        metrics[f"{split}/last"] = means[-1]
    return metrics


TABLE = Table("norms.csv", load, SPLITS)


def draw(models: Models) -> Iterator[Sketch]:
    """A figure of each split; two models, on the comparison page, are two lines in it."""
    for split, by_model in shared(models, TABLE).items():
        yield Sketch(f"norms_{split}", f"Residual stream on {split}", partial(draw_split, by_model))


def draw_split(by_model: dict[str, tuple[Norm, ...]]) -> Any:
    """The norms over the blocks."""
    figure, axes = sheet(1, 1, 2.5)
    for model, rows in by_model.items():
        axes[0, 0].plot([row.layer for row in rows], [row.norm for row in rows], marker="o", label=model or None)
    axes[0, 0].set(xlabel="block", ylabel="norm")
    return figure


def findings(results: CircuitResults) -> Iterator[str]:
    """A sentence a split."""
    for split, rows in results.each(TABLE).items():
        yield f"{split}: from {rows[0].norm:.1f} behind the first block to {rows[-1].norm:.1f} behind the last."


ANALYSIS = Analysis(
    "norms",
    About("Norms", "How large does the residual stream become?", "Points are means over all tokens of the rows."),
    run,
    settings={"norms": NormSettings},
    tables=(TABLE,),
    draw=draw,
    findings=findings,
)
