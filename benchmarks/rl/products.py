"""The least that either side has to do on a pretrained model: its matrix products and its attention, and nothing else.

No norms, activation functions, adapters, sampling, losses or optimizer. Prompts are read once for their group, and the
output layer reads the tokens of completions alone. The weights are frozen: backward there are gradients of the states.
"""

from pathlib import Path

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoConfig

from benchmarks.rl.clock import Clock
from benchmarks.rl.shape import Shape

VERSIONS = ("torch",)


class Products:
    """The products of a Llama, on numbers that mean nothing.

    Args:
        folder: of its config.
    """

    def __init__(self, folder: Path) -> None:
        config = AutoConfig.from_pretrained(folder)
        width, inner, self.heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
        self.depth, self.layers = width // self.heads, config.num_hidden_layers
        keys = config.num_key_value_heads * self.depth
        # Queries, keys and values; what attention writes; gate and what it gates; down.
        sizes = [(width + 2 * keys, width), (width, width), (2 * inner, width), (width, inner)]
        self.weights = [torch.randn(size) for _ in range(self.layers) for size in sizes]
        self.head = torch.randn(config.vocab_size, width)

    def linear(self, weights: list[torch.Tensor], tokens: int, learn: bool) -> None:
        """States of so many tokens through each weight, and back."""
        states = {weight.shape[1]: torch.randn(tokens, weight.shape[1]) for weight in weights}
        for weight in weights:
            out = states[weight.shape[1]] @ weight.T
            if learn:
                out @ weight

    def attention(self, rows: int, queries: int, keys: int, learn: bool) -> None:
        """Of all layers: of as many queries as keys, each by those before it."""
        for _ in range(self.layers):
            sizes = [(rows, self.heads, count, self.depth) for count in (queries, keys, keys)]
            parts = [torch.randn(size, requires_grad=learn) for size in sizes]
            out = scaled_dot_product_attention(*parts, is_causal=queries == keys)
            if learn:
                torch.autograd.grad(out, parts, torch.ones_like(out))

    def score(self, prompts: tuple[int, int], completions: tuple[int, int], learn: bool) -> None:
        """Log-probabilities: rows and tokens of prompts, then those of completions, each behind its prompt."""
        (count, prompt), (rows, tokens) = prompts, completions
        self.linear(self.weights, count * prompt + rows * tokens, learn)
        self.linear([self.head], rows * tokens, learn)
        self.attention(count, prompt, prompt, learn)
        self.attention(rows, tokens, prompt + tokens, learn)


def run_grpo(shape: Shape, folder: Path, clock: Clock) -> None:
    """Decode, score under the reference, learn."""
    products, tokens = Products(folder), shape.completion_tokens
    sizes = (shape.prompts, shape.prompt_tokens), (shape.rows, tokens)
    for _ in range(shape.batches):
        with torch.no_grad(), clock.part("decode"):
            products.linear(products.weights, shape.prompts * shape.prompt_tokens, False)
            for step in range(tokens):
                products.linear([*products.weights, products.head], shape.rows, False)
                products.attention(shape.rows, 1, shape.prompt_tokens + step + 1, False)
        if shape.beta:
            with clock.part("reference"):
                products.score(*sizes, learn=False)
        with clock.part("policy forward"):
            products.score(*sizes, learn=True)
        clock.tick()


def run_sft(shape: Shape, folder: Path, clock: Clock) -> None:
    """Learn; every row has a prompt of its own."""
    products = Products(folder)
    for _ in range(shape.batches):
        with clock.part("policy forward"):
            products.score((shape.rows, shape.prompt_tokens), (shape.rows, shape.completion_tokens), learn=True)
        clock.tick()
