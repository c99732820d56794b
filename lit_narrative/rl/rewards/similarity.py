"""A judge of similarity: the cosine of two texts' vectors, long texts read in windows, and its form on disk.

Notation: n texts, d width of the vectors.
"""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from cachetools import LRUCache
from torch import Tensor, nn

from lit_narrative.errors import UserError, check_least
from lit_narrative.files import atomic_folder, read_json, write_json
from lit_narrative.lm.checkpoint import load_checkpoint, naming_checkpoint
from lit_narrative.lm.logprobs import at_least_float32
from lit_narrative.lm.sentence_encoder import encode, encode_to_learn, load_encoder
from lit_narrative.rl.rewards.model import PARTS, restore_encoder
from lit_narrative.text import unicode_text

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

SIMILARITY = "similarity"
"""The key of a checkpoint of ``SimilarityModule`` under which the encoder stands."""
JUDGE_FILE = "judge.json"
"""What stands beside an encoder in a judge's folder: window, calibration and examination."""
INSTEAD = "train one: `fit`, then `test`, which examines it and writes its folder"
"""What else can be done where there is no judge."""
DEFAULT_WINDOW = 300
"""Words of a window of an encoder that reads texts of any length."""
WORDS_A_TOKEN = 0.6
"""Words of English prose for each token of an encoder's limit, low enough that nearly every window fits."""
MAX_WINDOWS = 256
"""Windows of one text that are read; what is behind them is not."""
REMEMBERED = 16_384
"""Vectors that are kept."""
_WORD = re.compile(r"\S+\s*")


def windows(text: str, size: int) -> list[str]:
    """A text in windows of nearly equal length, of ``size`` words at most; none of a blank text."""
    most = size * MAX_WINDOWS
    starts = [match.start() for match in islice(_WORD.finditer(text), most + 1)]
    words = min(len(starts), most)
    count = math.ceil(words / size)
    edges = [starts[round(number * words / count)] for number in range(count)]
    edges.append(starts[most] if len(starts) > most else len(text))
    return [text[start:end] for start, end in pairwise(edges)]


class SimilarityModel(nn.Module):
    """Similarity of texts: the cosine of their vectors by a sentence encoder, in -1..1.

    The vector of a text is the mean of those of its windows, each of unit length.

    Args:
        encoder: what gives a window its vector.
        window: words of a window; default: what fits within the encoder's limit.

    Attributes:
        calibration: similarities of held-out texts that are alike (``same_``) and that are not (``cross_``), each as
            ``mean`` and ``std``; ``cross_q25`` and ``same_q75`` are quartiles. Empty before a validation.
        examination: what is known of it on held-out texts; None: it was never examined.
    """

    def __init__(self, encoder: "SentenceTransformer", window: int | None = None) -> None:
        super().__init__()
        check_least("the judge's window", window, 1)
        self.encoder = encoder
        self.window = window or fitting_window(encoder)
        self.calibration: dict[str, float] = {}
        self.examination: dict[str, Any] | None = None
        self._known: LRUCache[bytes, Tensor] = LRUCache(REMEMBERED)

    @classmethod
    def load(cls, path: str, trust_remote_code: bool = False, setting: str = "judge") -> Self:
        """Read a judge: on the CPU, in evaluation mode, frozen.

        Args:
            path: a folder that `save` wrote, a checkpoint of ``SimilarityModule``, or any sentence-transformers
                model by folder or hub name, which was then never examined.
            trust_remote_code: run the Python code that its encoder brings along.
            setting: what names it, for errors.

        Raises:
            UserError: there is none, or it is damaged.
        """
        if Path(path).is_file():
            model = cls._of_checkpoint(path, trust_remote_code)
        else:
            beside = _read_beside(Path(path) / JUDGE_FILE)
            model = cls(load_encoder(path, trust_remote_code, setting, INSTEAD), beside.get("window"))
            model.calibration, model.examination = beside.get("calibration") or {}, beside.get("examination")
        return model.eval().requires_grad_(False)

    @classmethod
    def _of_checkpoint(cls, path: str, trust_remote_code: bool) -> Self:
        checkpoint = load_checkpoint(path)
        with naming_checkpoint(path):
            model = cls(restore_encoder(checkpoint, trust_remote_code, SIMILARITY), checkpoint[SIMILARITY]["window"])
        model.calibration = checkpoint[SIMILARITY]["calibration"]
        state = checkpoint["state_dict"]
        model.load_state_dict({name: value for name, value in state.items() if name.startswith(PARTS[0])})
        return model

    def save(self, folder: str | Path) -> Path:
        """Write a folder that ``SentenceTransformer`` reads, with ``judge.json`` beside it."""
        beside = {"window": self.window, "calibration": self.calibration, "examination": self.examination}
        with atomic_folder(folder) as scratch:
            self.encoder.save_pretrained(str(scratch), create_model_card=False)
            write_json(scratch / JUDGE_FILE, beside)
        return Path(folder)

    # --- vectors ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def vectors(self, texts: Sequence[str]) -> Tensor:
        """Vectors of unit length (n, d) float32 on the CPU, zeros for a blank text; each text is read once.

        The encoder must not have changed since the last call; `forget` says that it has.
        """
        # Generated text may hold lone surrogates, which strict UTF-8 refuses.
        keys = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts]
        found = {key: self._known[key] for key in keys if key in self._known}
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
        if missing:
            parts = [windows(text, self.window) for text in missing.values()]
            read = encode(self.encoder, [window for windows_of in parts for window in windows_of]).cpu()
            found |= dict(zip(missing, _means(read, [len(part) for part in parts]), strict=True))
            self._known.update({key: found[key] for key in missing})
        width = self.encoder.get_embedding_dimension() or 0
        return torch.stack([found[key] for key in keys]) if keys else torch.zeros(0, width)

    def forget(self) -> None:
        """Forget the vectors of earlier texts: the encoder has changed."""
        self._known.clear()

    def vectors_to_learn(self, texts: Sequence[str], most: int, generator: torch.Generator) -> Tensor:
        """Vectors of unit length (n, d) with a gradient.

        Args:
            texts: n of them.
            most: windows of each that are read, drawn from those it has.
            generator: of the draw.
        """
        parts = []
        for text in texts:
            every = windows(text, self.window)
            chosen = torch.randperm(len(every), generator=generator)[:most].sort().values.tolist()
            parts.append([every[index] for index in chosen])
        read = encode_to_learn(self.encoder, [window for part in parts for window in part])
        return _means(read, [len(part) for part in parts])

    def similarity(self, texts: Sequence[str], others: Sequence[str]) -> Tensor:
        """(n,) cosines of pairs; 0 where a text is blank."""
        return (self.vectors(texts) * self.vectors(others)).sum(1).clamp(-1, 1)

    def arrays(self, texts: Sequence[str]) -> np.ndarray:
        """`vectors` as an array, for what works without torch."""
        return self.vectors(texts).numpy()


def _means(read: Tensor, counts: Sequence[int]) -> Tensor:
    """(n, d) the mean of the vectors of each text's windows, of unit length; zeros of a text without windows."""
    # Likeness is told by the third digit, which bfloat16 does not have.
    unit = nn.functional.normalize(at_least_float32(read), dim=1)
    owner = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts, dtype=torch.long))
    sums = unit.new_zeros(len(counts), unit.shape[1]).index_add(0, owner.to(unit.device), unit)
    return nn.functional.normalize(sums, dim=1)


def fitting_window(encoder: "SentenceTransformer") -> int:
    """Words of a window that nearly always fit within an encoder's limit of tokens."""
    limit = encoder.max_seq_length
    return DEFAULT_WINDOW if limit is None or math.isinf(limit) else max(int(limit * WORDS_A_TOKEN), 1)


def truncated_share(model: SimilarityModel, texts: Sequence[str]) -> float:
    """Share of windows that are longer than the encoder's limit, the rest of which it would not read."""
    limit, tokenizer = model.encoder.max_seq_length, model.encoder.tokenizer
    parts = [unicode_text(window) for text in texts for window in windows(text, model.window)]
    if limit is None or math.isinf(limit) or not parts:
        return 0.0
    lengths = [len(ids) for ids in tokenizer(parts, truncation=False, verbose=False)["input_ids"]]
    return sum(length > limit for length in lengths) / len(lengths)


def _read_beside(path: Path) -> dict[str, Any]:
    """The content of a judge's file; empty where there is none.

    Raises:
        UserError: it is no such file.
    """
    if not path.is_file():
        return {}
    content = read_json(path)
    kinds = {"window": int, "calibration": dict, "examination": dict | None}
    if not isinstance(content, Mapping) or any(not isinstance(content.get(name), kind) for name, kind in kinds.items()):
        raise UserError(f"'{path}' is no file of a judge's folder; write the folder again with `lit-narrative test`")
    if any(not isinstance(value, int | float) for value in content["calibration"].values()):
        raise UserError(f"'{path}': its calibration is not made of numbers; write the folder again")
    return dict(content)
