"""Activations of a model on a task's examples, as rows to train a sparse autoencoder on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lit_narrative.circuits.analyses.residual_sae import Residuals, residuals
from lit_narrative.circuits.bridge import build_bridge
from lit_narrative.circuits.inputs import AnalysisInputs, encode_inputs
from lit_narrative.errors import UserError, check_least
from lit_narrative.lm.checkpoint import read_language_model
from lit_narrative.lm.load import load_lm
from lit_narrative.lm.tokenizer import load_tokenizer
from lit_narrative.views import Activation, Example


@dataclass(frozen=True)
class ActivationSettings:
    """Which activations the view of that name holds.

    Args:
        model: whose: a ``.ckpt`` of this package, a folder with transformers weights, or a hub name.
        hook: where: TransformerLens' name of an activation that has one vector a token.
        target_hook: another such name: the vectors that a transcoder predicts from those at ``hook``.
        places: names of positions in the examples, or all tokens.
        rows: vectors of each split at most.
        batch_size: examples of one forward pass.
        trust_remote_code: run the Python code that the model brings along.
    """

    model: str | None = None
    hook: str = "blocks.1.hook_resid_pre"
    places: Literal["all"] | Sequence[str] = "all"
    rows: int = 20_000
    batch_size: int = 256
    trust_remote_code: bool = False
    target_hook: str | None = None

    def __post_init__(self) -> None:
        check_least("data.activations.rows", self.rows, 1)
        check_least("data.activations.batch_size", self.batch_size, 1)


def read_activations(
    examples: Sequence[Example], settings: ActivationSettings, device: torch.device | str = "cpu"
) -> list[Activation]:
    """Run a model over examples, prompt with reference completion, until there are as many vectors as asked for.

    Args:
        examples: in order.
        settings: which model, where, and how many vectors.
        device: of the forward passes; the vectors come to the CPU.

    Raises:
        UserError: no model is named, it cannot be read or opened up, or it has no such hook or the examples no such
            position.
    """
    if settings.model is None:
        raise UserError(
            "the view 'activations' needs a model to read: set data.activations.model to a checkpoint, a folder or a "
            "hub name"
        )
    lm, tokenizer = _read_model(settings.model, settings.trust_remote_code)
    bridge = build_bridge(lm.to(device))  # type: ignore[arg-type]

    found: list[Activation] = []
    for start in range(0, len(examples), settings.batch_size):
        if (missing := settings.rows - len(found)) <= 0:
            break
        chosen = range(start, min(start + settings.batch_size, len(examples)))
        inputs = encode_inputs([examples[index] for index in chosen], tokenizer)
        wanted = inputs.mask if settings.places == "all" else _at(inputs, settings.places)
        # The model reads only as many examples as have the vectors that are still missing.
        enough = int((wanted.sum(1).cumsum(0) < missing).sum()) + 1
        read = partial(residuals, bridge, inputs.rows(slice(0, enough)), batch_size=settings.batch_size)
        targets = None if settings.target_hook is None else read(settings.target_hook)
        found += islice(_rows(read(settings.hook), targets, inputs, wanted, start), missing)
    return found


def _read_model(name: str, trusted: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if name.endswith(".ckpt"):
        return read_language_model(name, trust_remote_code=trusted)
    return load_lm(name, trust_remote_code=trusted), load_tokenizer(name, trusted)


def _rows(
    activations: Residuals, targets: Residuals | None, inputs: AnalysisInputs, wanted: Tensor, first: int
) -> Iterator[Activation]:
    """The wanted vectors (n, T) of a batch whose first example has the number ``first``."""
    # Prompts are padded on the left: a token's number in its text leaves the padding of its row out.
    vectors, padding = activations.vectors.cpu().numpy(), (~inputs.mask).sum(1).tolist()
    aims = None if targets is None else targets.vectors.cpu().numpy()
    for index in wanted[activations.rows.cpu(), activations.columns.cpu()].nonzero().flatten().tolist():
        row, column = int(activations.rows[index]), int(activations.columns[index])
        yield Activation(vectors[index], first + row, column - padding[row], None if aims is None else aims[index])


def _at(inputs: AnalysisInputs, places: Sequence[str]) -> Tensor:
    """(n, T) bool, which tokens are at one of the named positions."""
    assert inputs.positions is not None
    columns = inputs.positions.pick(places).columns
    return (columns[:, :, None] == torch.arange(inputs.tokens.shape[1])).any(1)
