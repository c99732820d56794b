"""Vectors of texts by sentence-transformers; each text is encoded once, and remembered on disk."""

import hashlib
import tempfile
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lit_narrative.errors import UserError, check_least, first_line
from lit_narrative.files import inside, write_bytes
from lit_narrative.lm.tokenizer import TrainedTokenizer, train_tokenizer

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


PROBE = ("The salt road runs along the sea at night.", "A lantern!")
"""Two texts by whose vectors an encoder is known again."""


@dataclass
class StaticEncoder:
    """An encoder that needs no download: the mean of a text's token vectors, learned from the task's own texts.

    Latent semantic analysis (Deerwester et al. 1990): tokens that come in the same texts get like vectors, by a
    truncated SVD of the table of texts and tokens (tf-idf). It does not see the order of words.

    Args:
        width: length of the vectors; at most as many as tokens, or texts.
        vocab_size: tokens of the byte-level BPE that is trained on the texts, split at words; at least 258.
        sample: texts to learn from.
    """

    width: int = 64
    vocab_size: int = 4096
    sample: int = 3000

    def __post_init__(self) -> None:
        check_least("model.encoder.width", self.width, 1)
        check_least("model.encoder.vocab_size", self.vocab_size, 258)
        check_least("model.encoder.sample", self.sample, 1)


def build_encoder(spec: StaticEncoder, texts: Sequence[str]) -> "SentenceTransformer":
    """The built-in encoder of some texts; the same texts in the same order give the same encoder."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = texts[: spec.sample]
    tokenizer = train_tokenizer(texts, TrainedTokenizer(spec.vocab_size, spec.sample, split_words=True))
    table = TfidfVectorizer(
        analyzer=tokenizer.tokenize, vocabulary=tokenizer.get_vocab(), sublinear_tf=True, lowercase=False
    )
    svd = TruncatedSVD(min(spec.width, len(tokenizer)), random_state=0).fit(table.fit_transform(texts))
    vectors = torch.from_numpy(svd.components_ * table.idf_).T.float()
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, vectors.contiguous())], device="cpu")


def load_encoder(name: str) -> "SentenceTransformer":
    """Load an encoder by hub name or folder; of another transformers model the mean of its states is taken.

    Raises:
        UserError: there is none, or the hub cannot be reached.
    """
    from sentence_transformers import SentenceTransformer

    try:
        encoder = SentenceTransformer(name, device="cpu")
    except (OSError, ValueError) as error:
        raise UserError(
            f"model.encoder: no sentence-transformers model at '{name}' ({first_line(error)}); give a folder that is "
            "here, download the model while there is a network, or use the built-in `encoder: {width: 64}`, "
            "which needs none"
        ) from error
    tokenizer = encoder.tokenizer
    if isinstance(tokenizer, PreTrainedTokenizerBase) and tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return encoder


def encode(encoder: "SentenceTransformer", texts: Sequence[str], batch_size: int = 64) -> Tensor:
    """Vectors of texts: (n, d) float32 on the encoder's device, without a gradient; of a blank text zeros.

    The encoder works in evaluation mode, and is left in the mode that it was in.
    """
    vectors, said = _blank(encoder, texts)
    if said:
        given, training = [texts[place] for place in said], encoder.training
        found = encoder.encode(given, batch_size=batch_size, convert_to_tensor=True, show_progress_bar=False)
        encoder.train(training)
        vectors[said] = found.float()
    return vectors


def encode_to_learn(encoder: "SentenceTransformer", texts: Sequence[str]) -> Tensor:
    """Vectors of texts with their graph: (n, d) float32; of a blank text zeros."""
    vectors, said = _blank(encoder, texts)
    if said:
        features = encoder.preprocess([texts[place] for place in said])
        on_device = {name: value.to(encoder.device) for name, value in features.items() if isinstance(value, Tensor)}
        vectors[said] = encoder({**features, **on_device})["sentence_embedding"].float()
    return vectors


def _blank(encoder: "SentenceTransformer", texts: Sequence[str]) -> tuple[Tensor, list[int]]:
    """Zeros (n, d), and which texts are not blank: many encoders fail on a text without a token."""
    vectors = torch.zeros(len(texts), encoder.get_embedding_dimension() or 0, device=encoder.device)
    return vectors, [place for place, text in enumerate(texts) if text.strip()]


# --- an encoder as files ----------------------------------------------------------------------------------------------


def encoder_files(encoder: "SentenceTransformer") -> dict[str, Tensor]:
    """The encoder as {file name: content as bytes, uint8}, for a checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        encoder.save_pretrained(folder, create_model_card=False)
        paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): _bytes(path) for path in paths}


def encoder_from_files(files: Mapping[str, Tensor]) -> "SentenceTransformer":
    """Rebuild an encoder from :func:`encoder_files`; no network, no original folder.

    Raises:
        ValueError: a file name leaves its folder.
    """
    from sentence_transformers import SentenceTransformer

    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            write_bytes(inside(folder, name), content.cpu().numpy().tobytes())
        return SentenceTransformer(folder, device="cpu", local_files_only=True)


def _bytes(path: Path) -> Tensor:
    return torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)


# --- memory -----------------------------------------------------------------------------------------------------------


class RememberedVectors:
    """Vectors of texts by a frozen encoder, each encoded once; in memory are those that were asked for.

    On disk a vector is found by the encoder's content and the text's, in ``<folder>/<encoder>/<texts>.safetensors``,
    one file for the texts that were new in one call. Processes may share the folder: files appear whole, and are
    never changed.

    Args:
        encoder: the encoder, which must not change.
        folder: where vectors are kept from run to run; None: in memory only.
    """

    def __init__(self, encoder: "SentenceTransformer", folder: str | Path | None = None) -> None:
        self.encoder = encoder
        self.folder = None if folder is None else Path(folder).expanduser() / _fingerprint(encoder)
        self._known: dict[bytes, Tensor] = {}

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Vectors of texts, in order: (n, d) float32 on the CPU.

        Raises:
            UserError: a file of the folder is damaged.
        """
        keys = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._known}
        if missing and self.folder is not None:
            for path in sorted(self.folder.glob("*.safetensors")):
                self._known |= _read(path, missing)
            missing = {key: text for key, text in missing.items() if key not in self._known}
        if missing:
            fresh = encode(self.encoder, list(missing.values())).cpu()
            self._known |= zip(missing, fresh, strict=True)
            if self.folder is not None:
                _write(self.folder, list(missing), fresh)
        return torch.stack([self._known[key] for key in keys])


def _fingerprint(encoder: "SentenceTransformer") -> str:
    digest = hashlib.sha256()
    for name, content in encoder_files(encoder).items():
        digest.update(f"{name}\n{len(content)}\n".encode())
        digest.update(content.numpy().data)
    return digest.hexdigest()


def _write(folder: Path, keys: Sequence[bytes], vectors: Tensor) -> None:
    from safetensors.torch import save

    joined = b"".join(keys)
    digests = torch.frombuffer(bytearray(joined), dtype=torch.uint8).view(len(keys), -1)
    content = save({"texts": digests, "vectors": vectors.contiguous()})
    write_bytes(folder / f"{hashlib.sha256(joined).hexdigest()}.safetensors", content)


def _read(path: Path, wanted: Container[bytes]) -> dict[bytes, Tensor]:
    """Those vectors of a file whose texts are wanted."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            keys = [row.numpy().tobytes() for row in file.get_tensor("texts")]
            rows = [place for place, key in enumerate(keys) if key in wanted]
            vectors = file.get_tensor("vectors")[rows] if rows else ()
    except SafetensorError as error:
        raise UserError(f"the remembered vectors in '{path}' are damaged ({error}); delete the file") from error
    return {keys[place]: vector for place, vector in zip(rows, vectors, strict=True)}
