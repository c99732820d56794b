"""The shape of the comparison with TRL: a model, its tokenizer, prompts, and a trivial reward.

The model is a seeded GPT-2, or one of a folder with adapters.

The end token has a dimension of the hidden state to itself, which the last layer norm sets to a constant: with
``constant`` lengths that constant makes the end token impossible, so that every completion has the full length; with
``ragged`` ones it has about the same probability at every step. A model of a folder gets another end token, one of
those special ones that a text never holds.
"""

import math
import random
import re
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

END, PAD = "<end>", "<pad>"
Lengths = Literal["constant", "ragged"]
PRETRAINED: dict[str, dict[str, Any]] = {
    "grpo": {"prompts": 2, "group": 4, "prompt_tokens": 32, "completion_tokens": 48},
    "sft": {"prompts": 2, "group": 1, "prompt_tokens": 64, "completion_tokens": 192},
}
"""Sizes for a model of a folder, by job."""
ADAPTED = ["q_proj", "v_proj"]
"""Layers of such a model that both sides adapt."""


@dataclass(frozen=True)
class Shape:
    """Sizes and settings that both sides share.

    Args:
        prompts: distinct prompts a step.
        group: completions a prompt.
        prompt_tokens: of each prompt.
        completion_tokens: the most that a completion may have.
        lengths: whether all completions have them, or end at random (about 40 tokens on average).
        hidden_size: of the model, which has heads of 64.
        layers: of the model.
        vocabulary: of the model, end and padding token included.
        mu: passes over each batch of completions (num_iterations).
        beta: weight of the divergence from the reference.
        lr: of AdamW with decay 0.01 on matrices and gradients clipped to norm 1, on both sides.
        trl_defaults: leave TRL's bfloat16 autocast and gradient checkpointing on; else float32 without, as ours.
        warmup: batches of completions (SFT: steps) before the measured ones.
        steps: measured batches of completions (SFT: steps).
        threads: of PyTorch.
        seed: of weights and prompts.
        device: ``cpu`` or ``cuda``; on a GPU wall seconds and its own memory are what counts.
        compile: our sampler's ``sampling.compile``.
        model: folder of a pretrained model with a tokenizer whose words begin with a space, in place of the GPT-2.
        rank: of the adapters on the queries and values of that, with a scale of twice it.
    """

    prompts: int = 4
    group: int = 8
    prompt_tokens: int = 32
    completion_tokens: int = 128
    lengths: Lengths = "constant"
    hidden_size: int = 256
    layers: int = 4
    vocabulary: int = 1024
    mu: int = 1
    beta: float = 0.04
    lr: float = 1e-5
    trl_defaults: bool = False
    warmup: int = 2
    steps: int = 5
    threads: int = 1
    seed: int = 0
    device: Literal["cpu", "cuda"] = "cpu"
    compile: bool = False
    model: str | None = None
    rank: int = 16

    @property
    def alpha(self) -> int:
        """Scale of the adapters, divided by their rank."""
        return 2 * self.rank

    @property
    def rows(self) -> int:
        """Sequences a step."""
        return self.prompts * self.group

    @property
    def batches(self) -> int:
        """Batches of a run, the unmeasured ones included."""
        return self.warmup + self.steps

    def as_dict(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


@cache
def words(shape: Shape) -> list[str]:
    """The vocabulary without its special tokens; of a pretrained one the whole words, a token each behind a space."""
    if shape.model is None:
        return [f"w{number}" for number in range(shape.vocabulary - 2)]
    from transformers import AutoTokenizer

    vocabulary = AutoTokenizer.from_pretrained(shape.model).get_vocab()
    return sorted(token[1:] for token in vocabulary if re.fullmatch("[\u0120\u2581][a-z]{2,}", token))


def texts(shape: Shape, count: int, tokens: int, stream: int) -> list[str]:
    """``count`` random texts of ``tokens`` words, with a space before each."""
    rng, known = random.Random(f"{shape.seed}/{stream}"), words(shape)
    return ["".join(f" {word}" for word in rng.choices(known, k=tokens)) for _ in range(count)]


def distinct_words(text: str) -> float:
    """The reward: the share of distinct words, 0 for an empty text."""
    words = text.split()
    return len(set(words)) / max(len(words), 1)


def write_model(shape: Shape, folder: Path) -> None:
    """Save the model and its tokenizer where both sides load them from."""
    if shape.model is not None:
        copy_model(shape.model, folder)
        return
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    ids = {word: number for number, word in enumerate([PAD, END, *words(shape)])}
    plain = Tokenizer(models.WordLevel(ids, unk_token=PAD))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=plain, eos_token=END, pad_token=PAD).save_pretrained(folder)

    torch.manual_seed(shape.seed)
    config = GPT2Config(
        vocab_size=shape.vocabulary,
        n_embd=shape.hidden_size,
        n_layer=shape.layers,
        n_head=shape.hidden_size // 64,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=ids[END],
        pad_token_id=ids[PAD],
    )
    lm = GPT2LMHeadModel(config)
    with torch.no_grad():
        lm.transformer.wte.weight[:, 0] = 0.0
        lm.transformer.wte.weight[ids[END], 0] = 1.0
        lm.transformer.ln_f.weight[0] = 0.0
        lm.transformer.ln_f.bias[0] = -50.0 if shape.lengths == "constant" else math.log(shape.vocabulary / 40)
    lm.save_pretrained(folder)


def copy_model(name: str, folder: Path) -> None:
    """Save a pretrained model as one whose completions have their full length, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, lm = AutoTokenizer.from_pretrained(name), AutoModelForCausalLM.from_pretrained(name)
    used = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token}
    tokenizer.eos_token = next(token for token in reversed(list(tokenizer.get_added_vocab())) if token not in used)
    tokenizer.save_pretrained(folder)
    lm.config.eos_token_id = lm.generation_config.eos_token_id = tokenizer.eos_token_id
    lm.save_pretrained(folder)
