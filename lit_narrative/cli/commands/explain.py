"""``lit-narrative explain``: what an actor says of a text's activations, or of directions such as an SAE's latents."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from lit_narrative.cli.arguments import plain_console
from lit_narrative.errors import UserError, check_least
from lit_narrative.report.format import one_line

if TYPE_CHECKING:  # torch takes seconds, and `--help` does without
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from lit_narrative.lm.vectors.verbalizer import Explanation, Verbalizer

_SHOWN = 5  # likeliest next tokens of the causal test


def explain(
    ckpt: str | None = None,
    data: str | None = None,
    text: str | None = None,
    critic: str | None = None,
    subject: str | None = None,
    last: int = 0,
    samples: int = 1,
    edit: str | None = None,
    sae: str | None = None,
    latent: Sequence[int] = (),
    seed: int = 0,
) -> None:
    """Print what an actor says of the activations of a text, position by position, or of the latents of an SAE.

    Args:
        ckpt: the actor: a checkpoint such as ``runs/verbalize/grpo/checkpoints/last.ckpt``.
        data: the folder of activations that it was trained on: it says of which model and layer they are.
        text: to read.
        critic: a checkpoint of the critic; default: the one in ``ckpt``, if it was trained along.
        subject: the model to read the text with, where it is no longer where it was.
        last: explain so many of the last positions; default: all.
        samples: the best of so many explanations by the critic; 1: the likeliest words.
        edit: ``old=new``: the causal test at the last position: the word is edited in its explanation, and the model
            goes on from the vector of the edited text.
        sae: a folder of an SAE of the same layer, whose latents are explained by their decoder directions.
        latent: their numbers.
        seed: of the samples.

    Raises:
        UserError: something is missing, or belongs to another model.
    """
    if ckpt is None or data is None:
        raise UserError("explain needs --ckpt, the actor's checkpoint, and --data, the folder of its activations")
    _check(text, edit, sae, latent, last)
    from lit_narrative.datamodules.explanations import load_verbalizer

    verbalizer, sidecar = load_verbalizer(ckpt, data, critic)
    if sae:
        _explain_latents(verbalizer, sae, latent, samples, seed, sidecar.mean_norm)
    if text:
        read = _read(subject or sidecar.model, sidecar.layer, text)
        _explain_text(verbalizer, read, last, samples, seed)
        if edit:
            _causal_test(verbalizer, read, edit, seed, samples)


def _check(text: str | None, edit: str | None, sae: str | None, latent: Sequence[int], last: int) -> None:
    if not text and not sae:
        raise UserError("explain needs --text to read, or --sae with --latent; give one")
    if bool(sae) != bool(latent):
        raise UserError("--sae and --latent belong together: a folder, and the numbers of latents in it")
    if edit and not text:
        raise UserError("--edit is of the explanation of a text; give --text")
    if edit and not all(edit.partition("=")[::2]):
        raise UserError(f"--edit {edit}: write old=new, two words")
    check_least("--last", last, 0)


# --- a text -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Read:
    """A text as the subject reads it: its token ids, and the activation (T, d) at each."""

    lm: "nn.Module"
    tokenizer: "PreTrainedTokenizerBase"
    layer: int
    ids: list[int]
    vectors: "Tensor"


def _read(model: str, layer: int, text: str) -> _Read:
    import torch

    from lit_narrative.lm.load import max_positions
    from lit_narrative.lm.tokenizer import encode_prompt
    from lit_narrative.lm.vectors.activations import read_block_output
    from lit_narrative.steering.factory import read_policy

    lm, tokenizer = read_policy(model)
    ids = encode_prompt(tokenizer, text)
    if not ids or len(ids) > (max_positions(lm) or len(ids)):
        raise UserError(f"--text has {len(ids)} tokens; the model reads 1 to {max_positions(lm)}")
    row, lm = torch.tensor([ids]), lm.eval()
    return _Read(lm, tokenizer, layer, ids, read_block_output(lm, row, torch.ones_like(row), layer)[0])


def _explain_text(verbalizer: "Verbalizer", read: _Read, last: int, samples: int, seed: int) -> None:
    start = max(len(read.ids) - last, 0) if last else 0
    explanations = verbalizer.explain(read.vectors[start:], samples, seed)
    tokens = [str(read.tokenizer.decode([token])) for token in read.ids[start:]]
    rows = [(str(start + row), token, one) for row, (token, one) in enumerate(zip(tokens, explanations, strict=True))]
    _print_table(["position", "token"], rows)


def _print_table(heads: Sequence[str], rows: Sequence[tuple[str, str, "Explanation"]]) -> None:
    console, scored = plain_console(), any(one.score is not None for _, _, one in rows)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for head in heads:
        table.add_column(head, no_wrap=True)
    table.add_column("explanation", overflow="fold")
    if scored:
        table.add_column("score", justify="right", no_wrap=True)
    for number, token, one in rows:
        said = f"no explanation: {one.answer}" if one.text is None else one.text
        cells = [Text(one_line(cell)) for cell in [*(number, token)[: len(heads)], said]]
        score = "–" if one.score is None else f"{one.score:.3f}"
        table.add_row(*cells, *([score] if scored else []))
    console.print(table)


def _explain_latents(
    verbalizer: "Verbalizer", folder: str, latents: Sequence[int], samples: int, seed: int, norm: float
) -> None:
    from lit_narrative.sae.autoencoder import decoder_directions

    directions = decoder_directions(folder)
    if wrong := [number for number in latents if not 0 <= number < len(directions)]:
        raise UserError(f"--latent {wrong[0]}: the SAE has the latents 0 to {len(directions) - 1}")
    # At the norm of activations: the actor has seen no vectors as short as decoder rows.
    explanations = verbalizer.explain(directions[list(latents)], samples, seed, norm)
    _print_table(["latent"], [(str(n), "", one) for n, one in zip(latents, explanations, strict=True)])


# --- the causal test --------------------------------------------------------------------------------------------------


def _causal_test(verbalizer: "Verbalizer", read: _Read, edit: str, seed: int, samples: int) -> None:
    import torch

    from lit_narrative.lm.vectors.patching import first_token, patched_logits

    old, _, new = edit.partition("=")
    text = verbalizer.explain(read.vectors[-1], samples, seed)[0].text
    if text is None or old not in text:
        said = "there is none" if text is None else f"it is: {text}"
        raise UserError(f"--edit {edit}: the explanation at the last position does not hold '{old}'; {said}")
    norms = read.vectors[-1:].norm(dim=-1).expand(2)
    vectors = verbalizer.reconstruct([text, text.replace(old, new)], norms)
    patched = patched_logits(read.lm, [read.ids] * 2, read.layer, vectors)
    logprobs = torch.cat([patched_logits(read.lm, [read.ids]), patched]).log_softmax(-1)
    _print_next(read.tokenizer, logprobs)
    before, after = logprobs[1], logprobs[2]
    divergence = float((before.exp() * (before - after)).sum())
    console = plain_console()
    console.print(f"next token, unedited to edited: KL {divergence:.4f} nats")
    tokens = [first_token(read.tokenizer, word) for word in (new, old)]
    for word, token in zip((new, old), tokens, strict=True):
        change = "not a token of the model" if token is None else f"{float(after[token] - before[token]):+.3f} nats"
        console.print(Text(f"log-probability of '{one_line(word)}': {change}"))


def _print_next(tokenizer: "PreTrainedTokenizerBase", logprobs: "Tensor") -> None:
    """The likeliest next tokens under the model's own vector, the reconstruction, and that of the edited text."""
    table = Table("own activation", "explanation", "edited explanation", box=None, padding=(0, 2, 0, 0))
    best = logprobs.topk(min(_SHOWN, logprobs.shape[-1]))
    for rank in range(best.values.shape[1]):
        pairs = zip(best.indices[:, rank].tolist(), best.values[:, rank].exp().tolist(), strict=True)
        table.add_row(*(Text(f"{one_line(str(tokenizer.decode([token])))!r} {share:.1%}") for token, share in pairs))
    plain_console().print(table)
