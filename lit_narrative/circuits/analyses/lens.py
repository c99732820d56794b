"""What the model would answer layer by layer (logit lens), and what each part adds to the answer's logit directly."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from lit_narrative.circuits.bridge import separate_inputs, shape
from lit_narrative.circuits.graph import Graph, written
from lit_narrative.circuits.hooks import capture
from lit_narrative.circuits.inputs import IGNORED, Questions, score
from lit_narrative.circuits.tables import read_arrays, read_json, read_rows, write_arrays, write_rows
from lit_narrative.errors import UserError
from lit_narrative.files import write_json

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class LensRow:
    """The residual stream before a layer, read as if it were the last.

    Attributes:
        layer: the layer that follows; the number of layers for the end of the stream.
        accuracy: share of scored tokens whose answer is ahead of all.
        logprob: mean log-probability of the answer.
        logit_diff: mean lead of the answer over the distractor (over the best other token, if there is none).
        rank: mean number of tokens ahead of the answer.
        kl: mean divergence of the final distribution from this one, in nats.
    """

    layer: int
    accuracy: float
    logprob: float
    logit_diff: float
    rank: float
    kl: float


@dataclass(frozen=True)
class Lens:
    """The logit lens of all layers."""

    rows: tuple[LensRow, ...]

    def save(self, folder: str | Path) -> Path:
        """Write lens.csv."""
        write_rows(Path(folder, "lens.csv"), LensRow, self.rows)
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote."""
        return cls(read_rows(Path(folder, "lens.csv"), LensRow))


@torch.no_grad()
def logit_lens(bridge: "TransformerBridge", questions: Questions, batch_size: int = 256) -> Lens:
    """Read the residual stream before every layer, and at the end, through the last norm and the output embedding."""
    questions = questions.to(bridge.cfg.device)
    count, columns = shape(bridge).layers, questions.columns
    hooks = [f"blocks.{layer}.hook_resid_pre" for layer in range(count)] + [_last(count)]
    _, kept = capture(bridge, questions, hooks, batch_size)
    logits = [bridge.unembed(bridge.ln_final(kept[hook][:, columns])) for hook in hooks]
    return Lens(tuple(_lens_row(layer, own, logits[-1], questions, columns) for layer, own in enumerate(logits)))


def _last(layers: int) -> str:
    return f"blocks.{layers - 1}.hook_resid_post"


def _lens_row(layer: int, logits: Tensor, final: Tensor, questions: Questions, columns: Tensor) -> LensRow:
    targets = questions.targets[:, columns]
    asked = targets != IGNORED
    own, end = logits[asked].log_softmax(-1), final[asked].log_softmax(-1)
    ahead = (own > own.gather(1, targets[asked][:, None])).sum(1).double().mean()
    kl = nn.functional.kl_div(own, end, log_target=True, reduction="batchmean")
    return LensRow(layer, **score(logits, questions, columns).means(), rank=ahead.item(), kl=kl.item())


@dataclass(frozen=True, eq=False)
class Direct:
    """Direct contributions to the logit difference: they add up to it.

    Attributes:
        parts: ``input``, every head and MLP, and ``bias`` (biases of attentions, last norm and output).
        values: (P, M) float32, over the M scored tokens.
        logit_diff: (M,) float32, of the model.
    """

    parts: tuple[str, ...]
    values: np.ndarray
    logit_diff: np.ndarray

    def ranked(self) -> list[tuple[str, float]]:
        """Parts with their mean contributions, the largest magnitude first."""
        means = zip(self.parts, self.values.mean(1).tolist(), strict=True)
        return sorted(means, key=lambda item: -abs(item[1]))

    def save(self, folder: str | Path) -> Path:
        """Write direct.json (means) and direct.safetensors."""
        folder = Path(folder)
        means = dict(zip(self.parts, self.values.mean(1).tolist(), strict=True))
        write_json(folder / "direct.json", {"parts": means, "logit_diff": float(self.logit_diff.mean())})
        write_arrays(folder / "direct.safetensors", {"values": self.values, "logit_diff": self.logit_diff})
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote."""
        parts = tuple(read_json(Path(folder, "direct.json"))["parts"])
        return cls(parts, **read_arrays(Path(folder, "direct.safetensors")))


@torch.no_grad()
def direct_attribution(bridge: "TransformerBridge", questions: Questions) -> Direct:
    """Split the answer's lead over the distractor into what every part writes in that direction.

    The last norm's scale is taken as it is, so that the rest is linear. What a part does by way of later parts is not
    counted: patching and edges are for that.

    Raises:
        UserError: The rows have no distractors, or the model's last norm is of an unknown kind.
    """
    if questions.distractors is None:
        raise UserError("direct logit attribution compares the answer with a distractor; these rows have none")
    questions = questions.to(bridge.cfg.device)
    graph, asked = Graph.of(shape(bridge)), questions.targets != IGNORED
    with separate_inputs(bridge):
        scores, parts = written(bridge, questions, graph)
    _, kept = capture(bridge, questions, [_last(graph.layers), "ln_final.hook_scale"])
    stream, scale = kept[_last(graph.layers)][asked], kept["ln_final.hook_scale"][asked]
    own = parts[asked]
    own = torch.cat([own, (stream - own.sum(1))[:, None]], 1)
    direction, constant = _direction(bridge, questions, asked)
    if _centred(bridge):
        own = own - own.mean(-1, keepdim=True)
    values = torch.einsum("mpd,md->pm", own, direction / scale)
    values[-1] += constant
    if not torch.allclose(values.sum(0), scores.logit_diff, atol=1e-3 * max(1.0, scores.logit_diff.abs().max().item())):
        kind = type(bridge.ln_final.original_component).__name__
        raise UserError(f"direct logit attribution does not know the model's last norm ({kind}) or output")
    arrays = (tensor.cpu().numpy() for tensor in (values, scores.logit_diff))
    return Direct((*graph.sources, "bias"), *arrays)


def _centred(bridge: "TransformerBridge") -> bool:
    return isinstance(bridge.ln_final.original_component, nn.LayerNorm)


def _direction(bridge: "TransformerBridge", questions: Questions, asked: Tensor) -> tuple[Tensor, Tensor]:
    """Of each scored token, the direction (M, d) before the last norm's weight, and what biases add (M,)."""
    assert questions.distractors is not None
    answers, distractors = questions.targets[asked], questions.distractors[asked]
    norm: Any = bridge.ln_final.original_component
    output: Any = bridge.unembed.original_component
    difference = output.weight[answers] - output.weight[distractors]
    constant = difference.new_zeros(len(answers))
    if getattr(norm, "bias", None) is not None:
        constant = constant + difference @ norm.bias
    if output.bias is not None:
        constant = constant + output.bias[answers] - output.bias[distractors]
    return difference * norm.weight, constant
