"""The reward model: a head on the vectors of a sentence encoder, and its form in checkpoints and folders."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from lit_narrative.errors import UserError
from lit_narrative.files import atomic_folder, write_json
from lit_narrative.lm.checkpoint import load_checkpoint, naming_checkpoint
from lit_narrative.lm.sentence_encoder import (
    PROBE,
    RememberedVectors,
    StaticEncoder,
    encode,
    encode_to_learn,
    encoder_files,
    encoder_from_files,
    load_encoder,
)
from lit_narrative.rl.rewards.head import RewardHead

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

REWARD = "reward"
"""The key of a checkpoint of ``RewardModule`` under which the encoder stands."""
PARTS = ("encoder.", "head.")
"""How the weights of a reward model are called in a checkpoint."""
MAX_FILES = 64 * 2**20
"""Bytes up to which the files of a frozen encoder from a folder are stored in the checkpoint."""
LIMIT = 3.0
"""Deviations from the mean, of a component of a vector, that a head on a frozen encoder tells apart."""


class RewardModel(nn.Module):
    """Scores of texts: a `RewardHead` on the vectors of a sentence encoder.

    Args:
        encoder: its vectors of ``PROBE`` give the head's width.
        hidden: widths of the head's hidden layers.
        dropout: rate after each of them.
        finetune_encoder: the encoder is trained along with the head; otherwise it is frozen, in evaluation mode.

    Attributes:
        remembered: vectors of a frozen encoder that were computed before; None: none are kept.
    """

    def __init__(
        self, encoder: "SentenceTransformer", hidden: Sequence[int], dropout: float, finetune_encoder: bool = False
    ) -> None:
        super().__init__()
        self.finetune_encoder = finetune_encoder
        self.encoder = encoder.requires_grad_(finetune_encoder)
        # No limit on an encoder that is trained: its vectors leave the range in which they begin.
        self.head = RewardHead(
            encode(encoder, PROBE).shape[1], hidden, dropout, limit=None if finetune_encoder else LIMIT
        )
        self.remembered: RememberedVectors | None = None

    @classmethod
    def load(cls, path: str | Path, trust_remote_code: bool = False) -> Self:
        """Read a trained model from a checkpoint of ``RewardModule``: on the CPU, in evaluation mode, frozen.

        Args:
            path: of the checkpoint.
            trust_remote_code: run the Python code that its encoder brings along.

        Raises:
            UserError: there is no such file, it holds no reward model, or its encoder is missing or another one now.
        """
        checkpoint = load_checkpoint(path)
        if REWARD not in checkpoint:
            raise UserError(f"'{path}' holds no reward model; give a checkpoint that RewardModule wrote")
        with naming_checkpoint(path):
            encoder, given = restore_encoder(checkpoint, trust_remote_code), checkpoint["hyper_parameters"]
            model = cls(encoder, given["hidden"], given["dropout"], given["finetune_encoder"])
        state = checkpoint["state_dict"]
        model.load_state_dict({name: value for name, value in state.items() if name.startswith(PARTS)})
        return model.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; a frozen encoder stays in evaluation mode, so that its dropout does not blur its vectors."""
        super().train(mode)
        if not self.finetune_encoder:
            self.encoder.eval()
        return self

    @property
    def trained(self) -> bool:
        """Whether there was a step of training."""
        return bool(self.head.steps)

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Logits (n,) of n texts."""
        logits: Tensor = self.head(self.vectors(texts))
        return logits

    def vectors(self, texts: Sequence[str]) -> Tensor:
        """Vectors of texts, (n, d); with a graph where the encoder is trained."""
        # `encode` works without gradients, so training the encoder takes another way.
        if self.finetune_encoder and torch.is_grad_enabled():
            return encode_to_learn(self.encoder, texts)
        if self.remembered is not None:
            return self.remembered(texts).to(self.head.mean.device)
        return encode(self.encoder, texts)

    def score(self, texts: Sequence[str]) -> list[float]:
        """Scores of texts, in the units of the training scores.

        Raises:
            UserError: nothing was learned yet.
        """
        return self.score_and_distance(texts)[0]

    @torch.no_grad()
    def score_and_distance(self, texts: Sequence[str]) -> tuple[list[float], list[float]]:
        """Scores of texts, and how far each is from the training set (`RewardHead.distance`).

        Raises:
            UserError: nothing was learned yet.
        """
        check_trained(self)
        training = self.training
        # In place of the caller's mode, which is put back below: dropout would make scores random.
        self.eval()
        vectors = self.vectors(texts)
        scores = self.head.scores(self.head(vectors))
        self.train(training)
        return scores.tolist(), self.head.distance(vectors).tolist()

    def save(self, folder: str | Path) -> Path:
        """Write a folder that ``SentenceTransformer`` reads, with the head beside it.

        ``reward_head.safetensors`` holds the head's weights and units, ``reward_head.json`` the arguments of
        `RewardHead`. The score of a vector is ``score_mean + score_deviation * network(x)``, where x is
        ``(vector - mean) / deviation``, cut off at ``limit``.

        Raises:
            UserError: nothing was learned yet.
        """
        from safetensors.torch import save_file

        check_trained(self)
        with atomic_folder(folder) as scratch:
            self.encoder.save_pretrained(str(scratch), create_model_card=False)
            # safetensors refuses tensors that are not contiguous.
            weights = {name: value.cpu().contiguous() for name, value in self.head.state_dict().items()}
            save_file(weights, scratch / "reward_head.safetensors")
            write_json(scratch / "reward_head.json", self.head.settings)
        return Path(folder)


def check_trained(model: RewardModel | None) -> None:
    """Refuse to score before anything was learned.

    Raises:
        UserError: there was no step of training.
    """
    if model is None or not model.trained:
        raise UserError(
            "this reward model was never trained, its scores would be random; train it with `lit-narrative fit` "
            "and load its checkpoint (--ckpt_path, or RewardModule.load_from_checkpoint)"
        )


def store_encoder(
    checkpoint: dict[str, Any],
    encoder: "SentenceTransformer",
    source: str | StaticEncoder,
    finetuned: bool,
    key: str = REWARD,
) -> None:
    """Add the encoder to ``checkpoint`` under ``key``: its files, or its name and how it is known again.

    A trained encoder, the built-in one and a small one from a folder ride along; a big one or one of the hub is named.
    """
    state = checkpoint["state_dict"]
    # By files rather than by weights: an encoder is any sentence-transformers model, which only its files rebuild.
    for name in [name for name in state if name.startswith(PARTS[0])]:
        del state[name]
    local = not isinstance(source, str) or Path(source).is_dir()
    files = encoder_files(encoder) if local or finetuned else {}
    if files and (finetuned or sum(map(len, files.values())) <= MAX_FILES):
        checkpoint[key] = {"files": files}
    else:
        name = str(Path(str(source)).resolve()) if local else source
        dtype = next(encoder.parameters()).dtype  # the run's precision may have changed it
        checkpoint[key] = {"name": name, "probe": encode(encoder, PROBE).cpu().clone(), "dtype": dtype}


def restore_encoder(
    checkpoint: dict[str, Any], trust_remote_code: bool = False, key: str = REWARD
) -> "SentenceTransformer":
    """The encoder of a checkpoint, whose weights go back to where Lightning looks for them.

    Raises:
        UserError: the checkpoint holds no such model, or the encoder that it names is missing, another one now, or
            needs code of its own.
    """
    if key not in checkpoint:
        raise UserError(f"this checkpoint holds no {key} model; give one that {key.capitalize()}Module wrote")
    stored = checkpoint[key]
    if "files" in stored:
        encoder = encoder_from_files(stored["files"], trust_remote_code)
    else:
        encoder = load_encoder(stored["name"], trust_remote_code).to(dtype=stored.get("dtype"))
    if "probe" in stored:
        probe = encode(encoder, PROBE).cpu()
        # Loose: other hardware and library versions move a vector by far less, another encoder by far more.
        if probe.shape != stored["probe"].shape or not torch.allclose(probe, stored["probe"], atol=1e-3, rtol=1e-2):
            raise UserError(
                f"the encoder at '{stored['name']}' gives other vectors than when this model was trained; put that "
                "encoder back, or train the model again"
            )
    checkpoint["state_dict"].update({PARTS[0] + name: value for name, value in encoder.state_dict().items()})
    return encoder
