"""The reconstructor: the first blocks of a causal language model that read a text and give the vector it describes.

It stops where the vector was taken: block K of the model, without the final norm and the output layer. A linear head
that begins as the identity turns the hidden state of the last token into the vector, so that training starts from what
the model itself holds at that place.

Notation: n texts, T tokens of the longest, d width of the model, a width of the vectors.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lit_narrative.errors import UserError, check_choice, check_least, first_line
from lit_narrative.files import whole_file
from lit_narrative.lm.checkpoint import ANOTHER, load_checkpoint, naming_checkpoint, plain_config
from lit_narrative.lm.load import Lora, add_lora, base_lm, blocks, build_lm, config_from_dict, max_positions
from lit_narrative.lm.tokenizer import encode_prompts, pad_right, tokenizer_files, tokenizer_from_files
from lit_narrative.lm.vectors.fve import Loss, losses
from lit_narrative.lm.vectors.fve import normalise as normalise
from lit_narrative.text import unicode_text

RECONSTRUCTOR = "reconstructor"
"""Key of a checkpoint under which a reconstructor stands."""
PREFIX = "critic."
"""How its weights are called in the checkpoint of a module."""
TEMPLATE = "Summary of the following text: <text> {explanation} </text> <summary>"
"""What stands around a text by default. Its end is fixed, so that the token that is read out is always the same."""
_BATCH = 64  # texts a forward pass

Head = Literal["identity", "linear", "mlp", "none"]
Pooling = Literal["last", "mean", "max", "cls", "weighted"]


@dataclass
class ReconstructorSettings:
    """What a reconstructor is made of, and what it learns.

    Args:
        layer: K, the block after which it ends, counted from 1; default: the task's, or two thirds of
            the model's blocks.
        width: of the vectors; default: the model's.
        head: ``identity``, a linear map without bias that begins as the identity; ``linear`` and ``mlp`` (linear, norm,
            ReLU and dropout, then linear) begin at random; ``none``.
        pooling: which hidden state is read: of the ``last`` token, the ``mean`` or the maximum (``max``) of all, of an
            end token put behind the text (``cls``), or a mean ``weighted`` by learned weights of the positions.
        final_norm: keep the model's final norm behind its last block.
        loss: ``mse`` mean squared error, ``cosine`` 1 - cos, ``smooth_l1``.
        scale: norm that vectors are brought to before they are compared, predicted ones too: ``sqrt_d`` the root of
            their width, a number, or null for vectors as they are. Of normalised vectors the direction alone counts.
        template: what is read, with ``{explanation}`` where the text goes; default: the task's, or `TEMPLATE`.
        mlp_layers: linear layers of ``mlp``, at least 2.
        dropout: within ``mlp``.
    """

    layer: int | None = None
    width: int | None = None
    head: Head = "identity"
    pooling: Pooling = "last"
    final_norm: bool = False
    loss: Loss = "mse"
    scale: Literal["sqrt_d"] | float | None = "sqrt_d"
    template: str | None = None
    mlp_layers: int = 2
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check_choice("model.critic.head", self.head, get_args(Head))
        check_choice("model.critic.pooling", self.pooling, get_args(Pooling))
        check_choice("model.critic.loss", self.loss, get_args(Loss))
        check_least("model.critic.layer", self.layer, 1)
        check_least("model.critic.width", self.width, 1)
        check_least("model.critic.mlp_layers", self.mlp_layers, 2)
        if not 0 <= self.dropout < 1:
            raise UserError(f"model.critic.dropout={self.dropout} must be at least 0 and below 1")
        if isinstance(self.scale, str):
            check_choice("model.critic.scale", self.scale, ("sqrt_d",), "a number, or null")
        elif self.scale is not None and not 0 < self.scale < math.inf:
            raise UserError(f"model.critic.scale={self.scale} must be above 0; null compares vectors as they are")
        if self.template is not None and self.template.count("{explanation}") != 1:
            raise UserError(
                f"model.critic.template={self.template!r} must hold {{explanation}} once, where the text goes"
            )


# --- the read-out -----------------------------------------------------------------------------------------------------


def pool(states: Tensor, mask: Tensor, kind: Pooling, weights: Tensor | None = None) -> Tensor:
    """One vector (n, d) of the hidden states of each row, wherever its padding is.

    Args:
        states: (n, T, d).
        mask: (n, T), 1 where there is a token.
        kind: ``cls`` reads the last token, which is the one that was put there.
        weights: (p,) of ``weighted``, before their softmax, from a row's first token on; further ones get the last.

    Raises:
        UserError: a row has no token.
    """
    if empty := (mask.sum(1) == 0).nonzero().flatten().tolist():
        raise UserError(f"row {empty[0]} (counted from 0) has no token to read; leave it out")
    there = mask.bool()[..., None]
    if kind == "mean":
        return (states * there).sum(1) / there.sum(1)
    if kind == "max":
        return states.masked_fill(~there, -math.inf).amax(1)
    if kind == "weighted":
        assert weights is not None
        places = (mask.cumsum(1) - 1).clamp(0, len(weights) - 1)
        shares = weights[places].masked_fill(mask == 0, -math.inf).softmax(1)
        return (states * shares[..., None]).sum(1)
    last = mask.cumsum(1).argmax(1)  # the first column at which all of the row's tokens are counted
    return states[torch.arange(len(states), device=states.device), last]


class Readout(nn.Module):
    """The pooled hidden state, and the head on it; both in float32 whatever the model is in.

    Args:
        hidden: d.
        width: a.
        positions: that ``weighted`` tells apart.
        settings: of the reconstructor.

    Raises:
        UserError: the head cannot change the width, and it has to.
    """

    def __init__(self, hidden: int, width: int, positions: int, settings: ReconstructorSettings) -> None:
        super().__init__()
        if settings.head in ("identity", "none") and width != hidden:
            raise UserError(
                f"model.critic.head={settings.head} gives vectors as wide as the model, {hidden}, and these are "
                f"{width} wide; choose linear or mlp"
            )
        self.pooling = settings.pooling
        self.head = _head(hidden, width, settings)
        self.weights = nn.Parameter(0.01 * torch.randn(positions)) if settings.pooling == "weighted" else None

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """(n, a) of hidden states (n, T, d) and mask (n, T)."""
        # In float32 even where the Trainer computes in bfloat16: rounded, its small steps would be lost in the head.
        with torch.autocast(states.device.type, enabled=False):
            dtype = next((one.dtype for one in self.parameters()), torch.float32)
            pooled = pool(states.to(torch.promote_types(dtype, torch.float32)), mask, self.pooling, self.weights)
            return self.head(pooled.to(dtype)).to(torch.promote_types(dtype, torch.float32))


def _head(hidden: int, width: int, settings: ReconstructorSettings) -> nn.Module:
    if settings.head == "none":
        return nn.Identity()
    if settings.head == "identity":
        linear = nn.Linear(hidden, width, bias=False)
        nn.init.eye_(linear.weight)
        return linear
    if settings.head == "linear":
        return nn.Linear(hidden, width)
    inner, parts, given = (hidden + width) // 2, list[nn.Module](), hidden
    for _ in range(settings.mlp_layers - 1):
        parts += [nn.Linear(given, inner), nn.LayerNorm(inner), nn.ReLU(), nn.Dropout(settings.dropout)]
        given = inner
    return nn.Sequential(*parts, nn.Linear(given, width))


# --- the model --------------------------------------------------------------------------------------------------------


def truncate(lm: nn.Module, layer: int, final_norm: bool = False) -> PreTrainedModel:
    """The decoder of a causal LM up to a block: its output is the hidden state after that block.

    Args:
        lm: with or without adapters; its decoder is cut in place.
        layer: the number of blocks that stay.
        final_norm: keep the norm that stands behind the blocks.

    Raises:
        UserError: there are fewer blocks.
    """
    decoder: Any = base_lm(lm).get_decoder()  # type: ignore[operator]
    layers, count = blocks(decoder), len(blocks(decoder))
    if not 1 <= layer <= count:
        raise UserError(f"model.critic.layer={layer}, and the model has the blocks 1 to {count}; change it")
    names = list(dict(decoder.named_children()))
    place = next(
        name for name in names if isinstance(held := getattr(decoder, name), nn.ModuleList) and layers[0] in held
    )
    setattr(decoder, place, getattr(decoder, place)[:layer])
    for name in names[names.index(place) + 1 :]:
        if not final_norm and "norm" in type(getattr(decoder, name)).__name__.lower():
            setattr(decoder, name, nn.Identity())
    config = decoder.config
    for name, value in config.to_dict().items():
        if "layer" in name and isinstance(value, list) and len(value) == count:
            setattr(config, name, value[:layer])
    config.num_hidden_layers = layer
    return decoder  # type: ignore[no-any-return]


class Reconstructor(nn.Module):
    """Vectors of texts: a truncated language model with a head.

    Args:
        lm: a causal LM; its blocks behind the settings' layer, and adapters' wrapping, are taken off in place.
        tokenizer: its tokenizer.
        settings: what is read and learned; the model's own have layer, width and template resolved.
        lora: train low-rank adapters and the head, and leave the rest of the model as it is.

    Raises:
        UserError: there is no such layer, or the head cannot give vectors of that width.
    """

    def __init__(
        self,
        lm: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        settings: ReconstructorSettings = ReconstructorSettings(),  # noqa: B008
        lora: Lora | None = None,
    ) -> None:
        super().__init__()
        base, count = base_lm(lm), len(blocks(lm))
        hidden = base.config.get_text_config().hidden_size
        layer = settings.layer or max(2 * count // 3, 1)
        width, template = settings.width or hidden, settings.template or TEMPLATE
        self.settings = replace(settings, layer=layer, width=width, template=template)
        self.tokenizer, self.lora, self.width = tokenizer, lora, width
        self.limit = max_positions(base)
        self.backbone = truncate(add_lora(base, lora) if lora else lm, layer, settings.final_norm)
        self.readout = Readout(hidden, width, self.limit or 2048, self.settings)
        self._around = _around(tokenizer, template)
        # A space before a word belongs to its token, in most vocabularies: it is read with the text.
        self._space = " " if template.partition("{explanation}")[0].endswith(" ") else ""

    @property
    def device(self) -> torch.device:
        """Where it works."""
        return self.backbone.device

    @property
    def scale(self) -> float | None:
        """The norm that vectors are compared at."""
        return math.sqrt(self.width) if self.settings.scale == "sqrt_d" else self.settings.scale  # type: ignore[return-value]

    # --- reading ------------------------------------------------------------------------------------------------------

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of what is read of each text; one that exceeds the model's positions is cut, never its template.

        Raises:
            UserError: nothing is left to read of an empty text, as its template is empty too.
        """
        before, behind = self._around
        if self.settings.pooling == "cls":
            behind = [*behind, self.tokenizer.eos_token_id]
        room = None if self.limit is None else max(self.limit - len(before) - len(behind), 0)
        rows = [row[:room] for row in self._tokens(texts)]
        if empty := [number for number, row in enumerate(rows) if not (row or before or behind)]:
            raise UserError(f"text {empty[0]} (counted from 0) of {len(texts)} is empty; remove it")
        return [[*before, *row, *behind] for row in rows]

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        spaced = [f"{self._space}{unicode_text(text)}" for text in texts]
        rows: list[list[int]] = self.tokenizer(spaced, add_special_tokens=False)["input_ids"]
        return rows

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Vectors (n, a) of token ids (n, T) with their mask (n, T), padded on either side; float32."""
        places = (mask.cumsum(1) - 1).clamp(min=0)
        output = self.backbone(input_ids=ids, attention_mask=mask, position_ids=places, use_cache=False)
        vectors: Tensor = self.readout(output.last_hidden_state, mask)
        return vectors

    def read(self, texts: Sequence[str]) -> Tensor:
        """Vectors (n, a) of texts as one batch, with a gradient, in the mode that the model is in."""
        return self(*self._to_device(self.encode(texts)))

    def batch(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Token ids and mask (n, T) of rows, padded on the right, on the CPU."""
        lengths = torch.tensor([len(row) for row in rows])
        ids = pad_right(rows)
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        return ids, mask

    def _to_device(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        ids, mask = self.batch(rows)
        return ids.to(self.device), mask.to(self.device)

    @torch.no_grad()
    def reconstruct(self, texts: Sequence[str]) -> Tensor:
        """Vectors (n, a) float32 on the CPU, in evaluation mode; an empty text gives what its template alone does.

        Raises:
            UserError: the template is empty too.
        """
        rows, training = self.encode(texts), self.training
        vectors = torch.zeros(len(rows), self.width)
        order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
        self.eval()
        for start in range(0, len(order), _BATCH):
            part = order[start : start + _BATCH]
            vectors[part] = self(*self._to_device([rows[number] for number in part])).float().cpu()
        self.train(training)
        return vectors

    def losses(self, predicted: Tensor, target: Tensor) -> Tensor:
        """(n,) what is learned to make small, of vectors (n, a)."""
        return losses(predicted, target, self.settings.loss, self.scale)

    # --- files --------------------------------------------------------------------------------------------------------

    def content(self) -> dict[str, Any]:
        """All but the weights as plain values, for a checkpoint."""
        return {
            "config": plain_config(self.backbone),
            "tokenizer": tokenizer_files(self.tokenizer),
            "settings": vars(self.settings).copy(),
            "lora": vars(self.lora).copy() if self.lora else None,
        }

    @classmethod
    def rebuild(cls, content: Mapping[str, Any], trust_remote_code: bool = False) -> Self:
        """The reconstructor of `content`, without its weights: on the CPU, in float32."""
        lm = build_lm(config_from_dict(content["config"], trust_remote_code), trust_remote_code=trust_remote_code)
        tokenizer = tokenizer_from_files(content["tokenizer"], trust_remote_code)
        lora = Lora(**content["lora"]) if content["lora"] else None
        return cls(lm, tokenizer, ReconstructorSettings(**content["settings"]), lora)

    def save(self, path: str | Path) -> None:
        """Write a checkpoint that `load` reads.

        Raises:
            UserError: a weight is not finite.
        """
        weights = {PREFIX + name: value.cpu() for name, value in self.state_dict().items()}
        if broken := [name for name, value in weights.items() if not value.isfinite().all()]:
            raise UserError(f"the reconstructor's weight '{broken[0]}' is not finite, so it is not saved; lower its lr")
        with whole_file(path) as temporary:
            torch.save({RECONSTRUCTOR: self.content(), "state_dict": weights}, temporary)

    @classmethod
    def load(cls, path: str | Path, trust_remote_code: bool = False) -> Self:
        """Read one: on the CPU, in evaluation mode.

        Args:
            path: of a file of `save`, of a checkpoint of ``ReconstructorModule``, or of one of a run in which it
                was trained along with the policy (``CriticTraining``).
            trust_remote_code: run the Python code that its model brings along.

        Raises:
            UserError: there is no such file, it holds none, or is damaged.
        """
        checkpoint = load_checkpoint(path)
        with naming_checkpoint(path):
            found = stored_reconstructor(checkpoint)
            if found is None:
                raise UserError(
                    "it holds no reconstructor; give a checkpoint of ReconstructorModule, or of a run with the "
                    "callback CriticTraining"
                )
            content, weights = found
            critic = cls.rebuild(content, trust_remote_code)
            try:
                critic.load_state_dict(weights)
            except RuntimeError as error:
                raise UserError(f"the reconstructor's weights are damaged ({first_line(error)}); {ANOTHER}") from error
        return critic.eval()


def stored_reconstructor(checkpoint: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """What a checkpoint says of its reconstructor, and its weights; None where it has none."""
    if RECONSTRUCTOR in checkpoint:
        state = checkpoint["state_dict"]
        return checkpoint[RECONSTRUCTOR], {
            name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)
        }
    for state in checkpoint.get("callbacks", {}).values():
        if isinstance(state, dict) and RECONSTRUCTOR in state:
            return state[RECONSTRUCTOR], state["weights"]
    return None


def _around(tokenizer: PreTrainedTokenizerBase, template: str) -> tuple[list[int], list[int]]:
    """Token ids before and behind the text."""
    before, behind = template.split("{explanation}")
    # Apart from the text, whose first and last letters could otherwise merge with theirs.
    ids: list[int] = tokenizer(behind, add_special_tokens=False)["input_ids"] if behind else []
    return encode_prompts(tokenizer, [before.removesuffix(" ")])[0], ids
