"""Activations of a model on a task's examples, as rows to train a sparse autoencoder on; and books to read for that."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lit_narrative.books.read import PASSAGE_WORDS, book_files, passages, read_book, split_of
from lit_narrative.circuits.analyses.residual_sae import Residuals, residuals
from lit_narrative.circuits.bridge import build_bridge
from lit_narrative.circuits.inputs import AnalysisInputs, encode_inputs
from lit_narrative.datamodules.base import Split, TaskDataModule
from lit_narrative.errors import UserError, check_least
from lit_narrative.lm.base_model import identify
from lit_narrative.lm.checkpoint import read_language_model
from lit_narrative.lm.load import load_lm, max_positions
from lit_narrative.lm.tokenizer import load_tokenizer
from lit_narrative.sae.activation_file import ABOUT, ActivationFile, write_activations
from lit_narrative.views import Activation, Example

EVERY = 30.0
"""Seconds between two lines of progress."""


@dataclass(frozen=True)
class ActivationSettings:
    """Which activations the view of that name holds.

    Args:
        model: whose: a ``.ckpt`` of this package, a folder with transformers weights, or a hub name.
        hook: where: TransformerLens' name of an activation that has one vector a token.
        target_hook: another such name: the vectors that a transcoder predicts from those at ``hook``.
        places: names of positions in the examples, or all tokens.
        skip: tokens at the beginning of each text that are left out; of many pretrained models the stream at the first
            token is far longer than at all others.
        rows: vectors of each split at most.
        batch_size: examples of one forward pass.
        cache: folder in which the vectors are kept: memory holds a batch of them, and a later run with the same model,
            examples and settings reads them from there; None: they are in memory.
        trust_remote_code: run the Python code that the model brings along.
    """

    model: str | None = None
    hook: str = "blocks.1.hook_resid_pre"
    places: Literal["all"] | Sequence[str] = "all"
    rows: int = 20_000
    batch_size: int = 256
    trust_remote_code: bool = False
    target_hook: str | None = None
    skip: int = 0
    cache: str | None = None

    def __post_init__(self) -> None:
        check_least("data.activations.rows", self.rows, 1)
        check_least("data.activations.batch_size", self.batch_size, 1)
        check_least("data.activations.skip", self.skip, 0)
        if self.cache == "":
            raise UserError("data.activations.cache is empty; name a folder, or leave it out")


def read_activations(
    examples: Sequence[Example], settings: ActivationSettings, device: torch.device | str = "cpu"
) -> Sequence[Activation]:
    """Run a model over examples, prompt with reference completion, until there are as many vectors as asked for.

    Args:
        examples: in order.
        settings: which model, where, and how many vectors.
        device: of the forward passes; the vectors come to the CPU, or to the disk.

    Raises:
        UserError: no model is named, it cannot be read or opened up, or it has no such hook or the examples no such
            position.
    """
    if settings.model is None:
        raise UserError(
            "the view 'activations' needs a model to read: set data.activations.model to a checkpoint, a folder or a "
            "hub name"
        )
    if settings.cache is None:
        return list(_read(examples, settings, settings.model, device))
    about = _about(examples, settings, settings.model)
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    if (Path(settings.cache, key) / ABOUT).is_file():
        rank_zero_info(f"activations: read from {Path(settings.cache, key)}")
        return ActivationFile(Path(settings.cache, key))
    return write_activations(Path(settings.cache, key), _read(examples, settings, settings.model, device), about)


def _about(examples: Sequence[Example], settings: ActivationSettings, model: str) -> dict[str, Any]:
    """All that the vectors depend on."""
    texts = hashlib.sha256()
    for row in examples:
        texts.update(repr((row.prompt, row.completion)).encode(errors="backslashreplace"))
        if settings.places != "all":
            texts.update(repr(sorted(row.meta.get("spans", {}).items())).encode())
    return {
        "model": model,
        "weights": _weights(model),
        "texts": texts.hexdigest(),
        "places": settings.places if settings.places == "all" else list(settings.places),
        **{name: getattr(settings, name) for name in ("hook", "target_hook", "skip", "rows")},
    }


def _weights(model: str) -> str | None:
    """A checksum of a model's files; None of what is not there yet."""
    if not model.endswith(".ckpt"):
        return identify(model).sha256
    if not Path(model).is_file():
        return None
    with open(model, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(
    examples: Sequence[Example], settings: ActivationSettings, model: str, device: torch.device | str
) -> Iterator[Activation]:
    """The vectors, one after another; memory holds those of a batch."""
    lm, tokenizer = _read_model(model, settings.trust_remote_code)
    positions = max_positions(lm)
    bridge = build_bridge(lm.to(device))  # type: ignore[arg-type]
    del lm  # the bridge has a copy
    found, last = 0, time.monotonic()
    for start in range(0, len(examples), settings.batch_size):
        if (missing := settings.rows - found) <= 0:
            return
        chosen = range(start, min(start + settings.batch_size, len(examples)))
        inputs = encode_inputs([examples[index] for index in chosen], tokenizer)
        if (longest := inputs.tokens.shape[1]) > (positions or longest):
            raise UserError(
                f"data.activations: a text of {longest} tokens is longer than the {positions} positions of '{model}'; "
                "cut it, as by data.passage_words of BookData"
            )
        wanted = inputs.mask if settings.places == "all" else _at(inputs, settings.places)
        wanted = wanted & (inputs.mask.cumsum(1) > settings.skip)
        # The model reads only as many examples as have the vectors that are still missing.
        enough = int((wanted.sum(1).cumsum(0) < missing).sum()) + 1
        read = partial(residuals, bridge, inputs.rows(slice(0, enough)), batch_size=settings.batch_size)
        targets = None if settings.target_hook is None else read(settings.target_hook)
        for row in islice(_rows(read(settings.hook), targets, inputs, wanted, start), missing):
            found += 1
            yield row
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            rank_zero_info(f"activations: {found:,} of at most {settings.rows:,} vectors")


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


class SplitActivations:
    """The activations of a task's splits.

    Args:
        task: whose Trainer, where it has one, says the device.
        settings: which model, where, and how many vectors.
        examples: those of a split.
    """

    def __init__(
        self, task: TaskDataModule, settings: ActivationSettings, examples: Callable[[Split], Sequence[Example]]
    ) -> None:
        self.task, self.settings, self.examples = task, settings, examples
        # Kept: a test after training asks for the same split again, and reading costs a forward pass of every example.
        self._kept: dict[Split, Sequence[Activation]] = {}

    def of(self, split: Split) -> Sequence[Activation]:
        """Those of a split, read when they are first asked for; errors of `read_activations`."""
        if split not in self._kept:
            device = "cpu" if self.task.trainer is None else self.task.trainer.strategy.root_device
            self._kept[split] = read_activations(self.examples(split), self.settings, device)
        return self._kept[split]


class BookData(TaskDataModule):
    """Views ``examples`` (passages of books, of whole paragraphs) and ``activations`` (of a model that reads them).

    A passage is training, validation or test by its content: eight, one and one in ten.

    Args:
        books: a text file, or a folder with ``.txt`` files; what Project Gutenberg wrote around a book is left out.
        passage_words: words after which a passage ends, at the next end of a paragraph, 2 or more.
        activations: of which model, and where.
        train_size: passages of training at most, 1 or more; default: all.
        **kwargs: of `TaskDataModule`.

    Raises:
        UserError: there is no such file, or a number is out of range.
    """

    def __init__(
        self,
        books: str,
        passage_words: int = PASSAGE_WORDS,
        activations: ActivationSettings = ActivationSettings(),
        train_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_least("data.passage_words", passage_words, 2)
        check_least("data.train_size", train_size, 1)
        self.train_size = train_size
        self.files, self.passage_words = book_files(books), passage_words
        self._activations = SplitActivations(self, activations, self.examples)

    def examples(self, split: Split) -> list[Example]:
        """Passages, to complete from their first word on: no token stands in front of it from which to predict it."""
        texts = (text for file in self.files for text in passages(read_book(file).text, self.passage_words))
        parts = (text.partition(text.split(maxsplit=1)[0]) for text in texts if split_of(text) == split)
        found = (Example(first, rest, {}) for _, first, rest in parts if rest.strip())
        return list(islice(found, self.train_size if split == "train" else None))

    def activations(self, split: Split) -> Sequence[Activation]:
        """What a model holds at the tokens of the passages; read once.

        Raises:
            UserError: no model is named, or it cannot be read as the settings say.
        """
        return self._activations.of(split)
