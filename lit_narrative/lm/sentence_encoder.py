"""Sentence embeddings by sentence-transformers, with a cache in memory and on disk."""

import hashlib
import tempfile
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lit_narrative.errors import UserError, check_least
from lit_narrative.files import inside, write_bytes
from lit_narrative.lm.load import foreign_code, needs_code, reason
from lit_narrative.lm.tokenizer import TrainedTokenizer, train_tokenizer
from lit_narrative.text import unicode_text

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


PROBE = ("The salt road runs along the sea at night.", "A lantern!")
"""Two texts whose vectors identify an encoder."""


@dataclass
class StaticEncoder:
    """An encoder that needs no download: the mean of a text's token vectors, learned from texts of the task.

    Latent semantic analysis (Deerwester et al. 1990): tokens that occur in the same texts get similar vectors, by a
    truncated SVD of the tf-idf matrix of texts and tokens. The order of words has no influence.

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


BUILT_IN = "use the built-in `encoder: {width: 64}`, which needs none"
"""What else can be done where there is no such encoder."""


def load_encoder(
    name: str, trust_remote_code: bool = False, setting: str = "model.encoder", instead: str = BUILT_IN
) -> "SentenceTransformer":
    """Load an encoder by hub name or folder; any other transformers model encodes by the mean of its hidden states.

    Args:
        name: of it.
        trust_remote_code: run the Python code that it brings along.
        setting: what names it, for the error.
        instead: what else can be done, for the error.

    Raises:
        UserError: there is none, the hub cannot be reached, it cannot be read, or it needs code of its own.
    """
    from sentence_transformers import SentenceTransformer

    try:
        # `weights_only` is ours to say: by its own settings file a folder could ask to unpickle anything.
        encoder = SentenceTransformer(
            name, device="cpu", trust_remote_code=trust_remote_code, model_kwargs={"weights_only": True}
        )
    except Exception as error:  # libraries raise errors of all kinds on files that are damaged
        if needs_code(name, error, trust_remote_code):
            raise UserError(foreign_code(name)) from error
        raise UserError(
            f"{setting}: no sentence-transformers model at '{name}' ({reason(error)}); give a folder that is "
            f"here, download the model while there is a network, or {instead}"
        ) from error
    tokenizer = encoder.tokenizer
    if isinstance(tokenizer, PreTrainedTokenizerBase) and tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return encoder


def encode(encoder: "SentenceTransformer", texts: Sequence[str], batch_size: int = 64) -> Tensor:
    """Vectors of texts: (n, d) float32 on the encoder's device, without a gradient; zeros for a blank text.

    The encoder runs in evaluation mode, and its mode is restored.
    """
    vectors, rows = _zeros(encoder, texts)
    if rows:
        given, training = [unicode_text(texts[row]) for row in rows], encoder.training
        encoded = encoder.encode(given, batch_size=batch_size, convert_to_tensor=True, show_progress_bar=False)
        encoder.train(training)  # `encode` switches to evaluation mode for good
        vectors[rows] = encoded.float()
    return vectors


def encode_to_learn(encoder: "SentenceTransformer", texts: Sequence[str]) -> Tensor:
    """Vectors of texts with a gradient: (n, d) float32; zeros for a blank text."""
    vectors, rows = _zeros(encoder, texts)
    if rows:
        features = encoder.preprocess([unicode_text(texts[row]) for row in rows])
        on_device = {name: value.to(encoder.device) for name, value in features.items() if isinstance(value, Tensor)}
        vectors[rows] = encoder({**features, **on_device})["sentence_embedding"].float()
    return vectors


def _zeros(encoder: "SentenceTransformer", texts: Sequence[str]) -> tuple[Tensor, list[int]]:
    """Zeros (n, d), and the indices of texts that are not blank: many encoders fail on a text without a token."""
    width = encoder.get_embedding_dimension() or 0
    # In float32 whatever the default, which a Trainer of another precision changes while a step runs.
    vectors = torch.zeros(len(texts), width, device=encoder.device, dtype=torch.float32)
    return vectors, [row for row, text in enumerate(texts) if text.strip()]


# --- an encoder as files ----------------------------------------------------------------------------------------------


def encoder_files(encoder: "SentenceTransformer") -> dict[str, Tensor]:
    """The encoder as {file name: content as bytes, uint8}, for a checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        encoder.save_pretrained(folder, create_model_card=False)
        paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): _bytes(path) for path in paths}


def encoder_from_files(files: Mapping[str, Tensor], trust_remote_code: bool = False) -> "SentenceTransformer":
    """Rebuild an encoder from `encoder_files`; no network, no original folder.

    Raises:
        UserError: a file name leaves its folder, or the files are not an encoder's, or need code of their own.
    """
    from sentence_transformers import SentenceTransformer

    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            write_bytes(inside(folder, name), content.cpu().numpy().tobytes())
        try:
            return SentenceTransformer(
                folder,
                device="cpu",
                local_files_only=True,
                trust_remote_code=trust_remote_code,
                model_kwargs={"weights_only": True},
            )
        except Exception as error:
            if needs_code(folder, error, trust_remote_code):
                raise UserError(foreign_code("the checkpoint's encoder")) from error
            raise UserError(f"the checkpoint's encoder is damaged ({reason(error)})") from error


def _bytes(path: Path) -> Tensor:
    return torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)


# --- cache ------------------------------------------------------------------------------------------------------------


class RememberedVectors:
    """Vectors of texts by a frozen encoder, each computed once; the vectors that were asked for stay in memory.

    On disk the key of a vector is the content of encoder and text: ``<folder>/<encoder>/<texts>.safetensors`` holds the
    texts that were new in one call. Processes may share the folder: a file appears whole and never changes.

    Args:
        encoder: the encoder, which must not change.
        folder: of the cache on disk; None: in memory only.
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
        # Generated text may hold lone surrogates, which strict UTF-8 refuses.
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
    """The vectors of a file whose texts are wanted."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            keys = [row.numpy().tobytes() for row in file.get_tensor("texts")]
            rows = [row for row, key in enumerate(keys) if key in wanted]
            vectors = file.get_tensor("vectors")[rows] if rows else ()
    except SafetensorError as error:
        raise UserError(f"the remembered vectors in '{path}' are damaged ({error}); delete the file") from error
    return {keys[row]: vector for row, vector in zip(rows, vectors, strict=True)}
