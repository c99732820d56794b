"""Injection: vectors, such as activations of another model, put into a prompt in place of marker tokens.

A prompt holds a marker token for each of its vectors. Where the model reads the prompt, its hidden states at the
markers are replaced by the vectors, or the vectors are added to them, at the output of the embedding, of some blocks,
or of both. A marker in a completion is a token like any other: a policy may write what it likes.

Notation: B rows, T columns, K largest number of vectors of a row, a width of a vector, d width of the model, n markers
of all rows together.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lit_narrative.errors import UserError, check_choice
from lit_narrative.lm.fast.layers import use_faster_modules
from lit_narrative.lm.load import base_lm, blocks

MARKER = "<|activation|>"
"""The special token that is added where a tokenizer has none of the following as one token."""
RARE_CHARACTERS = [chr(code) for code in range(0x3200, 0x3400)]
"""Enclosed and squared letters, of which texts of any language have few."""
SPARE_TOKENS = ("<|reserved_special_token_0|>", "<unused0>", "<|extra_0|>", "<empty_output>")
"""Tokens that vocabularies of known models keep free, or have for formats of their own: Llama, Gemma, Qwen, SmolLM2."""
Mode = Literal["replace", "add", "norm_add", "project"]
ScaleRule = Literal["raw", "sqrt_d", "mean_norm", "embed_norm"]
_PART = 8192  # rows of the embedding that are read at a time


@dataclass
class InjectionSettings:
    """How vectors are put into a model.

    Args:
        mode: ``replace`` the hidden state by the vector v; ``add`` v to it; ``norm_add``: add v at the norm of the
            state, h + |h| v / |v| ("Activation Oracles"); ``project``: replace it by W v + c, with W and c learned.
        layers: where: 0 is the output of the embedding, l that of block l, counted from 1. Several are all written to.
        scale: norm that each vector is brought to before anything else: ``raw`` its own; ``sqrt_d`` the root of its
            width; ``mean_norm`` the mean norm of the activations; ``embed_norm`` that of the model's embeddings, as its
            first block gets them; or a number.
        marker: the text of the marker token. One that the tokenizer does not write as a single token is added to it as
            a special token, with a row of the embedding. Default: the first of the characters U+3200 to U+33FF that the
            tokenizer writes as a single token, or a token that its vocabulary keeps free (`SPARE_TOKENS`), and where
            there is none, ``<|activation|>``, added.
        width: of the vectors; default: the model's. Only ``project`` takes others.
    """

    mode: Mode = "replace"
    layers: list[int] = field(default_factory=lambda: [0])
    scale: ScaleRule | float = "raw"
    marker: str | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        check_choice("model.injection.mode", self.mode, get_args(Mode))
        if isinstance(self.scale, str):
            check_choice("model.injection.scale", self.scale, get_args(ScaleRule), "a number")
        elif not 0 < self.scale < float("inf"):
            raise UserError(f"model.injection.scale={self.scale} must be above 0; `raw` keeps the norms as they are")
        if self.mode == "norm_add" and self.scale != "raw":
            raise UserError(
                f"model.injection.scale={self.scale} means nothing with mode=norm_add, where vectors take the norm of "
                "the state that they are added to; leave it out"
            )
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise UserError(f"model.injection.layers={self.layers} must name at least one layer, and each once")
        if self.marker is not None and not self.marker.strip():
            raise UserError("model.injection.marker is empty; leave it out, or give a text")


class Injector(nn.Module):
    """The learned part of an injection, and what is known of it, in a model that takes vectors.

    Args:
        base: the model.
        settings: with ``marker``, ``scale`` and ``width`` resolved.
        marker_id: of the marker token.
    """

    def __init__(self, base: PreTrainedModel, settings: InjectionSettings, marker_id: int) -> None:
        super().__init__()
        self.settings, self.marker_id = settings, marker_id
        width, hidden = int(settings.width or 0), base.config.get_text_config().hidden_size
        self.projection: nn.Linear | None = None
        if settings.mode == "project":
            self.projection = nn.Linear(width, hidden, device=base.device, dtype=base.dtype)
            _init_projection(self.projection)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Vectors (n, a) as they are injected, (n, d): scaled, and projected where that is asked for."""
        scale = 1.0 if self.settings.mode == "norm_add" else self.settings.scale
        if not isinstance(scale, str):
            vectors = scale * nn.functional.normalize(_at_least_float32(vectors), dim=-1)  # zeros stay zeros
        return vectors if self.projection is None else self.projection(vectors.to(self.projection.weight.dtype))


class _Write(torch.autograd.Function):
    """Hidden states h (B, T, d) with vectors v (n, d) written at n sites, out of place.

    Saves no tensor through autograd: up to transformers 5.9 at least, the hooks of a block run within its gradient
    checkpoint, and the block is computed again when the hooks are gone; it must then find as many saved tensors.
    """

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, vectors: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, mode: Mode
    ) -> torch.Tensor:
        ctx.sites, ctx.mode, ctx.dtype = (rows, columns), mode, vectors.dtype
        written = vectors
        if mode in ("add", "norm_add"):
            held = _at_least_float32(states[rows, columns])
            norms = held.norm(dim=-1, keepdim=True) if mode == "norm_add" else 1.0
            written = held + norms * vectors
            ctx.kept = (vectors, norms, nn.functional.normalize(held, dim=-1)) if mode == "norm_add" else ()
        return states.index_put((rows, columns), written.to(states.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None, None]:
        at_sites = _at_least_float32(grad[ctx.sites])
        if ctx.mode == "add":
            return grad, at_sites.to(ctx.dtype), None, None, None
        if ctx.mode == "norm_add":  # h + |h| u: the norm has the gradient h / |h|
            directions, norms, unit = ctx.kept
            of_held = at_sites + (at_sites * directions).sum(-1, keepdim=True) * unit
            at_sites = norms * at_sites
        else:
            of_held = torch.zeros_like(at_sites)
        return grad.index_put(ctx.sites, of_held.to(grad.dtype)), at_sites.to(ctx.dtype), None, None, None


def _at_least_float32(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _init_projection(projection: nn.Linear) -> None:
    """The identity; between different widths a random map that keeps angles, the same on every process."""
    nn.init.zeros_(projection.bias)
    if projection.in_features == projection.out_features:
        nn.init.eye_(projection.weight)
        return
    weight = torch.empty(projection.weight.shape)  # drawn in float32 on the CPU, whatever the model is in
    nn.init.orthogonal_(weight, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        projection.weight.copy_(weight)


def add_injector(
    lm: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    settings: InjectionSettings,
    activations: torch.Tensor | None = None,
) -> Injector:
    """Let ``lm`` take vectors; its ``injector`` is part of it from then on, and its parameters are learned with it.

    To be called before weights are sharded, and after adapters are added, which would freeze it.

    Args:
        lm: a transformers causal LM, with or without adapters.
        tokenizer: its tokenizer, which may get another token.
        settings: of the injection. The injector's own have marker, scale and width resolved: to keep beside weights.
        activations: (m, a), what ``mean_norm`` is measured on.

    Raises:
        UserError: a layer is past the model, the width is another than the model's, or there are no activations.
    """
    base = base_lm(lm)
    last, hidden = len(blocks(base)), base.config.get_text_config().hidden_size
    if past := [layer for layer in settings.layers if not 0 <= layer <= last]:
        raise UserError(
            f"model.injection.layers names {past[0]}, and the model has the layers 0 (embedding) to {last} (its last "
            "block); change it"
        )
    width = settings.width or hidden
    if width != hidden and settings.mode != "project":
        raise UserError(
            f"model.injection.width={width}, and the model is {hidden} wide: only mode=project takes vectors of "
            "another width"
        )
    text, token = _take_marker(base, tokenizer, settings.marker)
    resolved = replace(settings, marker=text, width=width, scale=_scale(base, settings.scale, width, activations))
    base.injector = Injector(base, resolved, token)
    return base.injector


def _scale(
    base: PreTrainedModel, rule: ScaleRule | float, width: int, activations: torch.Tensor | None
) -> ScaleRule | float:
    """The norm that a rule asks for."""
    if rule == "sqrt_d":
        return float(width**0.5)
    if rule == "embed_norm":
        return embedding_norm(base)
    if rule == "mean_norm":
        if activations is None:
            raise UserError("model.injection.scale=mean_norm is measured on activations, and none are given; give some")
        return float(activations.float().norm(dim=-1).mean())
    return rule


@torch.no_grad()
def embedding_norm(base: PreTrainedModel) -> float:
    """Mean norm of the embeddings of all tokens, with the scaling of architectures that have one (Gemma)."""
    embedding = base.get_input_embeddings()
    rows = len(embedding.weight)  # type: ignore[arg-type]
    parts = torch.arange(rows, device=base.device).split(_PART)
    return sum(float(embedding(part[None]).float().norm(dim=-1).sum()) for part in parts) / rows


# --- markers --------------------------------------------------------------------------------------------------------


def _take_marker(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str | None) -> tuple[str, int]:
    """Text and id of the marker; added to tokenizer and model where it is no token yet."""
    text = text or choose_marker(tokenizer)
    if (token := marker_id(tokenizer, text)) is not None:
        return text, token
    tokenizer.add_tokens([text], special_tokens=True)
    _add_rows(base, len(tokenizer))
    return text, tokenizer.convert_tokens_to_ids(text)  # type: ignore[return-value]


def choose_marker(tokenizer: PreTrainedTokenizerBase) -> str:
    """The first rare character or spare token that is one token; where there is none, the token that is then added."""
    known = (text for text in (*RARE_CHARACTERS, *SPARE_TOKENS) if marker_id(tokenizer, text) is not None)
    return next(known, MARKER)


def marker_id(tokenizer: PreTrainedTokenizerBase, text: str) -> int | None:
    """The id of the one token that stands for ``text`` within a text; None if there is no such token."""
    # Within a text: some tokenizers put a space in front of whatever they are given.
    ids: list[int] = tokenizer.encode(f"<{text}>", add_special_tokens=False)
    found = [token for token in ids if str(tokenizer.decode([token])).strip() == text]
    return found[0] if len(found) == 1 else None


@torch.no_grad()
def _add_rows(base: PreTrainedModel, size: int) -> None:
    """Embed ``size`` tokens: each new one starts as the mean of those before."""
    before = len(base.get_input_embeddings().weight)  # type: ignore[arg-type]
    if size <= before:  # models often have spare rows
        return
    base.resize_token_embeddings(size, mean_resizing=False)
    for layer in (base.get_input_embeddings(), base.get_output_embeddings()):
        weight: Any = layer.weight  # type: ignore[union-attr]
        weight[before:] = weight[:before].mean(0)
    use_faster_modules(base)  # the output layer is a new one


# --- checkpoints ----------------------------------------------------------------------------------------------------


def describe_injector(lm: nn.Module) -> dict[str, Any] | None:
    """The injector of a model as plain values, without its weights, which are the model's; None where it has none."""
    injector: Injector | None = getattr(base_lm(lm), "injector", None)
    return None if injector is None else {"settings": asdict(injector.settings), "marker_id": injector.marker_id}


def restore_injector(base: PreTrainedModel, stored: dict[str, Any]) -> None:
    """Give a model the injector that was described, and a row of the embedding for its marker where it lacks that.

    Raises:
        UserError: the description is none.
    """
    try:
        settings, marker = InjectionSettings(**stored["settings"]), int(stored["marker_id"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the checkpoint is damaged: its injection is none ({error}); give another one") from error
    _add_rows(base, marker + 1)
    base.injector = Injector(base, settings, marker)


# --- vectors of rows ------------------------------------------------------------------------------------------------


def stack_injections(rows: Sequence["np.ndarray | torch.Tensor | None"]) -> torch.Tensor | None:
    """The vectors of rows as one tensor (B, K, a) float32, NaN where a row has fewer; None if no row has any.

    Args:
        rows: (a,) or (k, a) each; None for a row without.

    Raises:
        UserError: the vectors differ in width, or hold something else than finite numbers.
    """
    if all(row is None for row in rows):
        return None
    vectors = [None if row is None else _vectors(number, row) for number, row in enumerate(rows)]
    widths = {row.shape[1] for row in vectors if row is not None}
    if len(widths) > 1:
        raise UserError(f"the vectors to inject differ in width: {sorted(widths)}; all must have one width")
    stacked = torch.full((len(rows), max(len(row) for row in vectors if row is not None), widths.pop()), torch.nan)
    for slot, row in zip(stacked, vectors, strict=True):
        if row is not None:
            slot[: len(row)] = row
    return stacked


def _vectors(number: int, row: "np.ndarray | torch.Tensor") -> torch.Tensor:
    """The vectors of a row, (k, a)."""
    vectors = row if isinstance(row, torch.Tensor) else torch.tensor(row)  # a copy: tables on disk are read-only
    if vectors.ndim not in (1, 2):
        raise UserError(f"row {number}: vectors to inject are (width,) or (vectors, width), not {tuple(vectors.shape)}")
    if not vectors.isfinite().all():
        raise UserError(f"row {number}: a vector to inject holds NaN or infinity; leave its row out of the data")
    return vectors.float().reshape(-1, vectors.shape[-1])


def injection_keys(injections: torch.Tensor) -> torch.Tensor:
    """(B,) int64, equal for rows of equal vectors (B, K, a) and for no others."""
    # By their bits, in which NaN equals NaN.
    return injections.contiguous().view(torch.uint8).flatten(1).unique(dim=0, return_inverse=True)[1]


# --- reading --------------------------------------------------------------------------------------------------------


@contextmanager
def injecting(
    lm: nn.Module, ids: torch.Tensor, injections: torch.Tensor | None, prompts: torch.Tensor | None = None
) -> Iterator[None]:
    """Within the context ``lm`` reads ``ids`` with vectors at their markers, and whatever it generates behind them.

    The prompts may be read at once or in parts, once or at every step (``use_cache=False``), and each row n times side
    by side (``num_return_sequences=n``); the backward pass may follow outside of the context.

    Args:
        lm: a transformers causal LM with an injector, with or without adapters.
        ids: (B, T).
        injections: (B, K, a), NaN where a row has fewer vectors; None: nothing is injected.
        prompts: (B, T) bool, true where a marker counts: not in padding, nor in completions. Default: all.

    Raises:
        UserError: the model takes no vectors or takes them of another width, a row has not one marker for each vector,
            a vector is not finite, or the model never read the markers.
    """
    if injections is None:
        yield
        return
    base = base_lm(lm)
    injector: Injector | None = getattr(base, "injector", None)
    if injector is None:
        raise UserError("these rows carry vectors to inject, and the model takes none: let it do so by `add_injector`")
    reading = _Reading(injector, *_find_markers(injector, ids, injections, prompts), len(ids))
    layers = blocks(base)
    with ExitStack() as hooks:
        hooks.enter_context(base.get_decoder().register_forward_pre_hook(reading.begin, with_kwargs=True))  # type: ignore[union-attr]
        hooks.enter_context(base.get_input_embeddings().register_forward_hook(reading.at_embedding))
        for layer in injector.settings.layers:
            if layer:
                hooks.enter_context(layers[layer - 1].register_forward_hook(reading.at_block))
        yield
    if not reading.written:
        raise UserError("vectors were given, and the model never read the prompts that they belong to: it read others")


def _find_markers(
    injector: Injector, ids: torch.Tensor, injections: torch.Tensor, prompts: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows and columns of the markers, (n,) each, and their vectors (n, a)."""
    width, marker = injector.settings.width, injector.settings.marker
    if injections.ndim != 3 or len(injections) != len(ids):
        raise UserError(
            f"{len(ids)} rows need vectors of the shape ({len(ids)}, vectors, width), not {tuple(injections.shape)}"
        )
    if injections.shape[2] != width:
        raise UserError(
            f"the vectors to inject are {injections.shape[2]} wide, and the model takes {width}; take activations of "
            "that width, or inject by mode=project with width set to theirs"
        )
    sites, given = ids == injector.marker_id, ~injections.isnan().all(-1)
    if prompts is not None:
        sites = sites & prompts
    found, expected = sites.sum(1), given.sum(1)
    if wrong := (found != expected).nonzero().flatten().tolist():
        raise UserError(
            f"row {wrong[0]}: {int(expected[wrong[0]])} vectors to inject, and the marker {marker!r} stands "
            f"{int(found[wrong[0]])} times in its prompt; give one marker for each vector"
        )
    vectors = injections[given]  # row by row, as `nonzero` goes
    if not vectors.isfinite().all():
        raise UserError("a vector to inject holds NaN or infinity; leave its row out of the data")
    return *sites.nonzero(as_tuple=True), vectors  # type: ignore[return-value]


class _Reading:
    """The hooks of a context: they know which columns a forward pass reads, and write at the markers among them.

    Args:
        injector: of the model.
        rows: (n,) of the markers.
        columns: (n,).
        vectors: (n, a).
        count: B.
    """

    def __init__(
        self, injector: Injector, rows: torch.Tensor, columns: torch.Tensor, vectors: torch.Tensor, count: int
    ) -> None:
        self.injector, self.rows, self.columns, self.vectors, self.count = injector, rows, columns, vectors, count
        self.end = int(columns.max()) + 1 if len(columns) else 0
        self.past, self.written = 0, not len(columns)
        self.now: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    def begin(self, decoder: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """A forward pass begins behind the columns that its cache holds."""
        # By length: a new cache is an object too, and counts its layers where it is asked for its `len`.
        cache = kwargs.get("past_key_values")
        self.past, self.now = 0 if cache is None else int(cache.get_seq_length()), None

    def at_embedding(self, embedding: nn.Module, args: Any, states: torch.Tensor) -> torch.Tensor | None:
        """Find the markers among the columns that are read, and write at the embedding where that is asked for."""
        if self.past >= self.end:  # a step of decoding: nothing on the device is looked at
            return None
        copies, left = divmod(len(states), self.count)
        inside = (self.columns >= self.past) & (self.columns < self.past + states.shape[1])
        rows, columns, vectors = self.rows[inside], self.columns[inside] - self.past, self.vectors[inside]
        # Copies of a row stand side by side.
        rows = (rows[:, None] * copies + torch.arange(copies, device=rows.device)).flatten()
        columns = columns.repeat_interleave(copies)
        ids = args[0]
        if left or not (ids[rows, columns] == self.injector.marker_id).all():
            raise UserError("vectors were given for other prompts than the model reads")
        # Here and not before: FSDP2 has the weights of the projection whole within the forward pass only.
        self.now = rows, columns, self.injector(vectors).repeat_interleave(copies, 0)
        self.written = self.written or len(rows) > 0
        return self._write(states) if 0 in self.injector.settings.layers else None

    def at_block(self, block: nn.Module, args: Any, output: Any) -> Any:
        """Write at the output of a block."""
        if self.now is None:
            return None
        # Some architectures return a tuple from their blocks, others the hidden states alone.
        return (self._write(output[0]), *output[1:]) if isinstance(output, tuple) else self._write(output)

    def _write(self, states: torch.Tensor) -> torch.Tensor:
        assert self.now is not None
        rows, columns, vectors = self.now
        return _Write.apply(states, vectors, rows, columns, self.injector.settings.mode)  # type: ignore[no-untyped-call,no-any-return]
