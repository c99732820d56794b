"""Activations of a causal language model: the raw output of one block at chosen tokens of texts.

Layers count as transformers counts hidden states: 0 is what the first block reads, l the output of block l, counted
from 1, before any final norm.

Notation: B rows, T columns, d width of the model.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lit_narrative.errors import UserError, check_least
from lit_narrative.lm.load import base_lm, blocks, max_positions
from lit_narrative.lm.tokenizer import pad_right
from lit_narrative.text import appended_tokens, unicode_text


def check_layer(lm: nn.Module, layer: int, flag: str = "layer") -> None:
    """Refuse a layer that a model has not.

    Raises:
        UserError: naming those that it has.
    """
    last = len(blocks(lm))
    if not 0 <= layer <= last:
        raise UserError(
            f"{flag} is {layer}, and the model has the layers 0 (what its first block reads) to {last} (the output of "
            "its last block); choose one of them"
        )


@contextmanager
def at_layer(lm: nn.Module, layer: int, change: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Within the context, what ``lm`` holds after a layer passes through a function.

    Args:
        lm: a transformers causal LM, with or without adapters.
        layer: 0 to the number of blocks.
        change: called with the hidden states (B, T, d) of each forward pass; what it returns takes their place, and
            they stay where it returns None.
    """

    def at_input(block: nn.Module, args: Any) -> Any:
        return None if (states := change(args[0])) is None else (states, *args[1:])

    def at_output(block: nn.Module, args: Any, output: Any) -> Any:
        # Some architectures return a tuple from their blocks, others the hidden states alone.
        whole = isinstance(output, tuple)
        states = change(output[0] if whole else output)
        return (states, *output[1:]) if whole and states is not None else states

    layers = blocks(lm)
    if layer:
        handle = layers[layer - 1].register_forward_hook(at_output)
    else:  # behind the positions, which some architectures add after the embedding
        handle = layers[0].register_forward_pre_hook(at_input)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def read_block_output(lm: nn.Module, ids: Tensor, mask: Tensor, layer: int) -> Tensor:
    """(B, T, d), what a model holds after a layer; what stands in padding means nothing.

    Args:
        lm: in evaluation mode, with or without adapters.
        ids: (B, T) token ids, padded on either side.
        mask: (B, T), 1 where there is a token.
        layer: 0 to the number of blocks.

    Raises:
        UserError: there is no such layer.
    """
    check_layer(lm, layer)
    decoder: Any = base_lm(lm).get_decoder()  # type: ignore[operator]
    places, read = (mask.cumsum(1) - 1).clamp(min=0), list[Tensor]()
    # At one block: `output_hidden_states` keeps the states of all, and gives the last one after its norm.
    with at_layer(lm, layer, read.append):
        decoder(input_ids=ids, attention_mask=mask, position_ids=places, use_cache=False)
    return read[0]


# --- a corpus ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ExtractionSettings:
    """Where activations of a corpus are read.

    Args:
        layer: K; see above.
        min_position: first token that may be read, counted from 0: those at the beginning of a text say little.
        positions_per_document: tokens of each document at most, without replacement.
        max_tokens: of a document that are read; default: as many as the model has positions, and 1024 at most.
        batch_size: documents a forward pass.
        seed: of the choice of tokens, with the document's content and nothing else.
    """

    layer: int
    min_position: int = 8
    positions_per_document: int = 10
    max_tokens: int | None = None
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("min_position", 0), ("positions_per_document", 1), ("max_tokens", 1), ("batch_size", 1)):
            check_least(f"--{name}", getattr(self, name), least)
        check_least("--seed", self.seed, 0)


@dataclass(frozen=True, slots=True, eq=False)
class DocumentActivation:
    """What a model holds at a token of a document.

    Attributes:
        document: the digest of its content.
        position: number of the token among all that the model reads of the document, from 0.
        token: its text.
        source: the document up to the token and with it.
        vector: (d,) float32, raw.
    """

    document: str
    position: int
    token: str
    source: str
    vector: np.ndarray


def document_key(text: str) -> str:
    """The digest of a document's content, by which documents are told apart."""
    return sha256(unicode_text(text).encode()).hexdigest()[:24]


def extract_activations(
    lm: nn.Module, tokenizer: PreTrainedTokenizerBase, documents: Iterable[str], settings: ExtractionSettings
) -> Iterator[DocumentActivation]:
    """Activations of documents, in order; memory holds those of one batch.

    The tokens of a document depend on the seed and its content alone. Special tokens are read and not chosen; a
    document without a token at ``min_position`` or behind it has no activation.

    Args:
        lm: in evaluation mode.
        tokenizer: its tokenizer.
        documents: texts, none of them twice.
        settings: what is read of them.

    Raises:
        UserError: the model has no such layer.
    """
    check_layer(lm, settings.layer, "--layer")
    left = iter(documents)
    while batch := [unicode_text(text) for text in islice(left, settings.batch_size)]:
        yield from _of_batch(lm, tokenizer, batch, settings)


def _of_batch(
    lm: nn.Module, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], settings: ExtractionSettings
) -> Iterator[DocumentActivation]:
    limit = settings.max_tokens or min(max_positions(lm) or 1024, 1024)
    end = appended_tokens(tokenizer)  # behind an end token there is nothing of the text
    rows = [row[: len(row) - end][:limit] for row in tokenizer(list(texts))["input_ids"]]
    chosen = [_positions(tokenizer, row, document_key(text), settings) for row, text in zip(rows, texts, strict=True)]
    # Nothing is read behind the last token that is wanted, and no row without one.
    kept = [number for number, places in enumerate(chosen) if places]
    if not kept:
        return
    cut = [rows[number][: chosen[number][-1] + 1] for number in kept]
    device = base_lm(lm).device
    ids, lengths = pad_right(cut).to(device), torch.tensor([len(row) for row in cut], device=device)
    mask = (torch.arange(ids.shape[1], device=device) < lengths[:, None]).long()
    states = read_block_output(lm, ids, mask, settings.layer)
    for index, number in enumerate(kept):
        vectors = states[index, chosen[number]].float().cpu().numpy()
        for place, vector in zip(chosen[number], vectors, strict=True):
            row = rows[number]
            token, source = tokenizer.decode([row[place]]), _prefix(tokenizer, texts[number], row, place)
            yield DocumentActivation(document_key(texts[number]), place, str(token), source, vector)


def _positions(
    tokenizer: PreTrainedTokenizerBase, row: Sequence[int], key: str, settings: ExtractionSettings
) -> list[int]:
    """The tokens of a document that are read, in order."""
    special = set(tokenizer.all_special_ids)
    places = [place for place in range(settings.min_position, len(row)) if row[place] not in special]
    rng = np.random.default_rng([settings.seed, int(key, 16)])
    count = min(settings.positions_per_document, len(places))
    return sorted(int(place) for place in rng.choice(places, count, replace=False)) if places else []


def _prefix(tokenizer: PreTrainedTokenizerBase, text: str, row: Sequence[int], place: int) -> str:
    """A document up to a token and with it; of a letter that the token ends within, nothing."""
    decoded = str(tokenizer.decode(list(row[: place + 1]), skip_special_tokens=True)).rstrip(
        "\N{REPLACEMENT CHARACTER}"
    )
    # Where decoding gives the very text back, it is cut from that; some tokenizers change spaces or case.
    return text[: len(decoded)] if text.startswith(decoded) else decoded
