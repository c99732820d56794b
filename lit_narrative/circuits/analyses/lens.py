"""Logit lens: the answer that each layer of the stream would give; and each part's direct share of the answer's lead.

The lens (nostalgebraist 2020) reads the residual stream before a layer through the last norm and the output embedding.
Direct logit attribution (Elhage et al. 2021) is linear in what the parts write, the last norm's scale held fixed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lit_narrative.circuits.analysis import (
    SPLITS,
    About,
    Analysis,
    AnalysisJob,
    AnalysisSettings,
    CircuitResults,
    Layers,
    Metrics,
    Models,
    Sketch,
    Table,
    labelled,
    shared,
)
from lit_narrative.circuits.bridge import check_layers, separate_inputs, shape
from lit_narrative.circuits.figures.parts import draw_parts
from lit_narrative.circuits.figures.probes import draw_lens
from lit_narrative.circuits.graph import LIMIT, Graph, written
from lit_narrative.circuits.hooks import Progress, capture
from lit_narrative.circuits.inputs import IGNORED, AnalysisInputs, score
from lit_narrative.circuits.records.lens import Direct, Lens, LensRow
from lit_narrative.circuits.report.findings import name_first
from lit_narrative.errors import UserError
from lit_narrative.report.format import number

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class LensSettings(AnalysisSettings):
    """Which layers are read.

    Args:
        layers: those before which the stream is read, and whose parts are told apart, or all.
    """

    layers: Layers = "all"


@torch.no_grad()
def logit_lens(
    bridge: "TransformerBridge", inputs: AnalysisInputs, batch_size: int = 256, layers: Layers = "all"
) -> Lens:
    """Read the residual stream before layers, and at the end, through the last norm and the output embedding.

    Raises:
        UserError: the model has no last norm, or no such layer.
    """
    if "ln_final.hook_scale" not in bridge.hook_dict:
        raise UserError(
            f"the lens reads through the last norm, and TransformerLens finds none in a {bridge.cfg.architecture}"
        )
    inputs = inputs.to(bridge.cfg.device)
    count, columns = shape(bridge).layers, inputs.columns
    hooks = {layer: f"blocks.{layer}.hook_resid_pre" for layer in check_layers(bridge, layers)} | {count: _last(count)}
    _, kept = capture(bridge, inputs, hooks.values(), batch_size)

    def read(hook: str) -> Tensor:
        return bridge.unembed(bridge.ln_final(kept[hook][:, columns]))  # type: ignore[no-any-return]

    # Layer by layer: logits of all layers at once would take the memory of a large vocabulary for each of them.
    final = read(hooks[count])
    return Lens(tuple(_lens_row(layer, read(hook), final, inputs, columns) for layer, hook in hooks.items()))


def _last(layers: int) -> str:
    return f"blocks.{layers - 1}.hook_resid_post"


def _lens_row(layer: int, logits: Tensor, final: Tensor, inputs: AnalysisInputs, columns: Tensor) -> LensRow:
    targets = inputs.targets[:, columns]
    scored = targets != IGNORED
    early, end = logits[scored].log_softmax(-1), final[scored].log_softmax(-1)
    ahead = (early > early.gather(1, targets[scored][:, None])).sum(1).double().mean()
    kl = nn.functional.kl_div(early, end, log_target=True, reduction="batchmean")  # KL(end ‖ early)
    return LensRow(layer, **score(logits, inputs, columns).means(), rank=ahead.item(), kl=kl.item())


@torch.no_grad()
def direct_attribution(bridge: "TransformerBridge", inputs: AnalysisInputs, layers: Layers = "all") -> Direct:
    """Split the answer's lead over the distractor into what every part writes in that direction.

    What a part does by way of later parts is not counted: patching and edges are for that. The last contribution is of
    what no listed part wrote: ``bias``, or ``rest`` where parts of some layers are not listed.

    Raises:
        UserError: the rows have no distractors, or the model's last norm is of an unknown kind.
    """
    if inputs.distractors is None:
        raise UserError("direct logit attribution compares the answer with a distractor; these rows have none")
    graph = Graph.of(bridge, layers)
    size = max(1, LIMIT // (inputs.tokens.shape[1] * len(graph.sources) * bridge.cfg.d_model))
    batches = [inputs.rows(slice(start, start + size)) for start in range(0, len(inputs), size)]
    values, leads = zip(*(_contributions(bridge, batch.to(bridge.cfg.device), graph) for batch in batches), strict=True)
    rest = "bias" if graph.chosen is None else "rest"
    return Direct((*graph.sources, rest), *(torch.cat(parts, -1).cpu().numpy() for parts in (values, leads)))


def _contributions(bridge: "TransformerBridge", inputs: AnalysisInputs, graph: Graph) -> tuple[Tensor, Tensor]:
    """Of M scored tokens, what each source and the rest add to the lead, (S + 1, M), and the lead (M,)."""
    scored = inputs.targets != IGNORED
    with separate_inputs(bridge):
        scores, parts = written(bridge, inputs, graph)
    _, kept = capture(bridge, inputs, [_last(graph.layers), "ln_final.hook_scale"])
    stream, scale = kept[_last(graph.layers)][scored], kept["ln_final.hook_scale"][scored]
    writes = parts[:, scored].movedim(0, 1)
    # The rest of the stream: the attentions' biases, which heads share, and parts of other layers.
    writes = torch.cat([writes, (stream - writes.sum(1))[:, None]], 1)
    direction, constant = _direction(bridge, inputs, scored)
    if _centred(bridge):
        writes = writes - writes.mean(-1, keepdim=True)
    values = torch.einsum("mpd,md->pm", writes, direction / scale)
    values[-1] += constant
    # The contributions must add up to the lead: they do not where a norm is neither LayerNorm nor RMSNorm.
    if not torch.allclose(values.sum(0), scores.logit_diff, atol=1e-3 * max(1.0, scores.logit_diff.abs().max().item())):
        kind = type(bridge.ln_final.original_component).__name__
        raise UserError(f"direct logit attribution does not know the model's last norm ({kind}) or output")
    return values, scores.logit_diff


def _centred(bridge: "TransformerBridge") -> bool:
    return isinstance(bridge.ln_final.original_component, nn.LayerNorm)


def _direction(bridge: "TransformerBridge", inputs: AnalysisInputs, scored: Tensor) -> tuple[Tensor, Tensor]:
    """Of each scored token, the direction (M, d) before the last norm's weight, and what biases add (M,)."""
    assert inputs.distractors is not None
    answers, distractors = inputs.targets[scored], inputs.distractors[scored]
    norm: Any = bridge.ln_final.original_component
    output: Any = bridge.unembed.original_component
    difference = output.weight[answers] - output.weight[distractors]
    constant = difference.new_zeros(len(answers))
    if getattr(norm, "bias", None) is not None:
        constant = constant + difference @ norm.bias
    if output.bias is not None:
        constant = constant + output.bias[answers] - output.bias[distractors]
    return difference * norm.weight, constant


LENS = Table("lens.csv", Lens.load, SPLITS)
DIRECT = Table("direct.json", Direct.load, SPLITS)


def _run(job: AnalysisJob, folder: Path, progress: Progress | None) -> Metrics:
    """The lens and direct contributions on the clean prompts of each split's pairs."""
    metrics: Metrics = {}
    layers = job.settings_of(LensSettings).layers
    for split in job.data.pairs:
        inputs = job.data.contrasts(split).inputs("clean")
        lens = logit_lens(job.bridge, inputs, layers=layers)
        lens.save(folder / split)
        direct_attribution(job.bridge, inputs, layers).save(folder / split)
        metrics[f"{split}/logit_diff"] = lens.rows[-1].logit_diff
    return metrics


def _draw(models: Models) -> Iterator[Sketch]:
    if splits := shared(models, LENS):
        lenses = {model: {split: by_model[model] for split, by_model in splits.items()} for model in models}
        yield Sketch("lens", "What each layer would answer", partial(draw_lens, lenses))
    if direct := {label: dict(parts.ranked()) for label, parts in labelled(models, DIRECT).items()}:
        title = "What each part adds to the answer's lead directly"
        yield Sketch("direct", title, partial(draw_parts, direct, "mean contribution (logits)"))


def _findings(results: CircuitResults) -> Iterator[str]:
    """For each split, accuracy by layer, and the largest direct contributions."""
    for split, lens in results.each(LENS).items():
        by_layer = ", ".join(number(row.accuracy, 2) for row in lens.rows)
        before = ", ".join(str(row.layer) for row in lens.rows[:-1])
        yield f"{split}: accuracy read before layer {before} and at the end: {by_layer}."
    for split, direct in results.each(DIRECT).items():
        lead = number(float(direct.logit_diff.mean()), 1)
        yield f"{split}: of a mean lead of {lead}, most comes directly from {name_first(dict(direct.ranked()))}."


ANALYSIS = Analysis(
    "lens",
    About(
        "Logit lens and direct contributions",
        "What would the model answer if it stopped before a layer, and how much does each part add to the answer's "
        "lead over the distractor directly?",
        "The stream before each layer is read through the last norm and the output. Direct contributions add up to "
        "the model's lead; what a part does by way of later parts is not in them.",
    ),
    _run,
    settings={"lens": LensSettings},
    paired=True,
    meanings={"*/logit_diff": "lead of the right answer's logit over the other one's at the last layer"},
    check=lambda job: check_layers(job.bridge, job.settings_of(LensSettings).layers),
    work=lambda job: 3 * sum(map(len, job.data.pairs.values())),
    tables=(LENS, DIRECT),
    draw=_draw,
    findings=_findings,
    order=60,
)
