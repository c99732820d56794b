"""Tokenizers: from the hub, from a folder, or trained on the corpus of a task."""

import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from lit_narrative.errors import UserError, first_line
from lit_narrative.files import inside, write_bytes, write_text
from lit_narrative.lm.adapter_folder import adapter_base, is_adapter_folder
from lit_narrative.lm.load import foreign_code, needs_code, reason
from lit_narrative.text import appended_tokens, unicode_text

END = "<|end|>"
PAD = "<|pad|>"
UNKNOWN = "<|unknown|>"
_WORD = r" ?-?[0-9]+| ?\p{L}+| ?[^\s\p{L}0-9]|\s"
"""A token of a word-level tokenizer: an integer, a word, another sign, a space or line break."""


@dataclass
class TrainedTokenizer:
    """A tokenizer trained on the task's corpus: a byte-level BPE (which may keep names whole), or a list of words.

    Args:
        vocab_size: number of tokens, the 256 bytes and 2 special tokens included; with ``words`` as many as there are,
            and no more than this.
        sample: how many corpus texts to train on.
        split_words: split at words before merging, as GPT-2 does. Without it merges cross punctuation and spaces, so
            that fragments of a JSON skeleton become single tokens (about five times shorter storyworlds).
        kind: ``bpe``; ``names``: a BPE in which each name of the task (`Task.tokenizer_names`) is a piece of its own
            wherever it occurs, so that to repeat a name is to copy a token, while all that stands between names merges;
            ``words``: every word, integer (with its sign), other sign and line break is one token, a space before it
            included; so is each name of the task that is no plain word, such as a tag; what the corpus lacks becomes
            one token for unknown words.
    """

    vocab_size: int = 1024
    sample: int = 3000
    split_words: bool = False
    kind: Literal["bpe", "names", "words"] = "bpe"

    def __post_init__(self) -> None:
        if self.kind != "bpe" and self.split_words:
            raise UserError(
                f"model.tokenizer.split_words means nothing with kind={self.kind}, which splits itself; leave it out"
            )
        if (self.kind != "words" and self.vocab_size < 258) or self.sample < 1:
            raise UserError(
                f"model.tokenizer.vocab_size={self.vocab_size} must be at least 258 (256 bytes, 2 special tokens), and "
                f"sample={self.sample} at least 1"
            )


def train_tokenizer(texts: Iterable[str], spec: TrainedTokenizer, names: Iterable[str] = ()) -> PreTrainedTokenizerBase:
    """Train a tokenizer; the same texts in the same order give the same tokenizer.

    Args:
        texts: of the task's corpus; the first ``spec.sample`` are read.
        spec: kind and size.
        names: words that ``kind: names`` keeps whole.

    Raises:
        UserError: the texts have more words than ``vocab_size``, or ``kind: names`` finds no names.
    """
    sample = map(unicode_text, islice(texts, spec.sample))
    if spec.kind == "words":
        return _word_tokenizer(sample, spec.vocab_size, names)
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    # Byte-level: every text can be encoded, whatever the corpus lacked.
    tokenizer = Tokenizer(models.BPE())
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=spec.split_words)
    tokenizer.pre_tokenizer = (
        pre_tokenizers.Sequence([_whole_names(names), to_bytes]) if spec.kind == "names" else to_bytes
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=spec.vocab_size,
        special_tokens=[PAD, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD)


def _whole_names(names: Iterable[str]) -> Any:
    """A pre-tokenizer that cuts before and after each name, where no other letter touches it."""
    from tokenizers import Regex, pre_tokenizers

    # The longest first: of two names that begin alike the pattern takes the first that fits.
    whole = sorted(set(names), key=lambda name: (-len(name), name))
    if not whole:
        raise UserError("model.tokenizer.kind=names finds no names in this task's texts; choose kind=bpe")
    pattern = "|".join(map(re.escape, whole))
    return pre_tokenizers.Split(Regex(rf"(?<!\p{{L}})(?:{pattern})(?!\p{{L}})"), "isolated")


def _word_tokenizer(texts: Iterable[str], most: int, names: Iterable[str]) -> PreTrainedTokenizerBase:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    signs = sorted({name for name in names if not name.isalnum()}, key=lambda name: (-len(name), name))
    pattern = "|".join([*(f" ?{re.escape(name)}" for name in signs), _WORD])
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.decoder = decoders.Fuse()
    # No limit for the trainer, which would drop the rarest words in silence; the check below reports them.
    trainer = trainers.WordLevelTrainer(
        vocab_size=2**31 - 1, special_tokens=[PAD, END, UNKNOWN], min_frequency=0, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    if (size := tokenizer.get_vocab_size()) > most:
        raise UserError(f"the corpus has {size} words, model.tokenizer.vocab_size={most} is smaller; raise it")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, unk_token=UNKNOWN)


def load_tokenizer(name: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load a tokenizer by hub name or folder; ``trust_remote_code`` runs the Python code that it brings along.

    Raises:
        UserError: there is no such tokenizer, it has no end-of-text token, or it needs code of its own.
    """
    if is_adapter_folder(name) and not any(Path(name).glob("tokenizer*")):  # PEFT itself writes none
        name = adapter_base(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
    except Exception as error:  # libraries raise errors of all kinds on files that are damaged
        if needs_code(name, error, trust_remote_code):
            raise UserError(foreign_code(name)) from error
        raise UserError(
            f"no tokenizer at '{name}' ({reason(error)}); give a hub name, a folder with tokenizer files, "
            "or `tokenizer: {vocab_size: 1024}` to train one on the task's corpus"
        ) from error
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer at '{name}' has no end-of-text token, so completions could never end")
    return tokenizer


def check_same_tokens(tokenizer: PreTrainedTokenizerBase, name: str, model: str) -> None:
    """Refuse a tokenizer of another model: one whose tokens have other numbers than in the model folder's own.

    Args:
        tokenizer: which was given beside a model.
        name: of it.
        model: folder of the model; of a hub name, or where it has no ``tokenizer.json``, nothing is known.

    Raises:
        UserError: a token has another number; or the model's own cannot be read.
    """
    from tokenizers import Tokenizer

    path = Path(model, "tokenizer.json")
    if not path.is_file():
        return
    try:
        own = Tokenizer.from_file(str(path)).get_vocab()
    except Exception as error:  # the library raises bare exceptions
        raise UserError(f"'{path}' is damaged ({first_line(error)}); copy it again, or remove it") from error
    for token, number in tokenizer.get_vocab().items():
        if own.get(token, number) != number:
            raise UserError(
                f"model.tokenizer={name} is of another model than '{model}': there {token!r} has the number {number}, "
                f"and in the model's own tokenizer {own[token]}; leave it out (--model.tokenizer=null)"
            )


def tokenizer_files(tokenizer: PreTrainedTokenizerBase) -> dict[str, str | bytes]:
    """The tokenizer as {file name: content}, for a checkpoint; what is not text (sentencepiece models) is bytes."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): _text_or_bytes(path.read_bytes()) for path in paths}


def _text_or_bytes(content: bytes) -> str | bytes:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content


def tokenizer_from_files(files: Mapping[str, str | bytes], trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Rebuild a tokenizer from `tokenizer_files`, without network or original folder.

    Raises:
        UserError: a file name leads out of its folder, or the files are not a tokenizer's, or need code of their own.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            path = inside(folder, name)
            write_bytes(path, content) if isinstance(content, bytes) else write_text(path, content)
        try:
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
        except Exception as error:
            if needs_code(folder, error, trust_remote_code):
                raise UserError(foreign_code("the checkpoint's tokenizer")) from error
            raise UserError(f"the checkpoint's tokenizer is damaged ({reason(error)})") from error


def encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[list[int]]:
    """Token ids of plain prompts, with the tokens that the tokenizer puts in front of a text and none behind it."""
    if not prompts:
        return []
    # Behind an end token every completion would be learned and sampled as the beginning of another text.
    end = appended_tokens(tokenizer)
    rows: list[list[int]] = tokenizer([*map(unicode_text, prompts)])["input_ids"]  # at once: several times faster
    return [row[: len(row) - end] for row in rows]


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """As `encode_prompts`, of one."""
    return encode_prompts(tokenizer, [prompt])[0]


def encode_completions(tokenizer: PreTrainedTokenizerBase, completions: Sequence[str]) -> list[list[int]]:
    """Token ids of completions, each closed by the end token."""
    if not completions:
        return []
    # Without special tokens: a BOS token here would stand in the middle of the row.
    rows = tokenizer([*map(unicode_text, completions)], add_special_tokens=False)["input_ids"]
    return [[*row, tokenizer.eos_token_id] for row in rows]


def encode_completion(tokenizer: PreTrainedTokenizerBase, completion: str) -> list[int]:
    """As `encode_completions`, of one."""
    return encode_completions(tokenizer, [completion])[0]


def pad_right(rows: Sequence[Sequence[int] | torch.Tensor], value: int = 0) -> torch.Tensor:
    """Stack rows of unequal length into (rows, longest) int64, filled with ``value`` on the right."""
    return _pad(rows, value, "right")


def pad_left(rows: Sequence[Sequence[int] | torch.Tensor], value: int = 0) -> torch.Tensor:
    """As `pad_right`, filled on the left."""
    return _pad(rows, value, "left")


def _pad(rows: Sequence[Sequence[int] | torch.Tensor], value: int, side: Literal["left", "right"]) -> torch.Tensor:
    tensors = [torch.as_tensor(row, dtype=torch.long) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value, padding_side=side)
