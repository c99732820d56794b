"""SFT, a step of GRPO and decoding against their floor: ``python -m benchmarks.floor``, two minutes on a quiet machine.

The floor is the time of the matrix products and the attention of the same shapes, forward and backward, and of nothing
else: no norms, no activation functions, no sampling, no optimizer, no data, no Trainer. Products go through the same
kernels as the model's. Targets: SFT and a step of GRPO at most 1.25 times their floor, decoding at most 1.6 times.

Models and batches are those of ``storyworld/sft`` and ``storyworld/grpo``; no token ends a completion, so that all have
all their tokens. Rounds alternate between the two sides in one process; CPU seconds of all threads are counted, and
medians and the median of neighbouring rounds' ratios are printed.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, Trainer, seed_everything
from torch.nn import functional
from transformers import AutoTokenizer, PreTrainedModel

from benchmarks.rounds import alternate, print_markdown, print_table, ratios
from benchmarks.trainer import bare_trainer
from lit_narrative.datamodules.storyworld import StoryworldData
from lit_narrative.lm.fast.layers import fast_linear
from lit_narrative.lm.fast.prefix_forward import shared_prompts
from lit_narrative.lm.load import ScratchModel, build_lm, scratch_config
from lit_narrative.lm.logprobs import CompletionBatch
from lit_narrative.lm.sampler import LoopSampler, Request, SamplingParams
from lit_narrative.lm.tokenizer import TrainedTokenizer, encode_prompts, train_tokenizer
from lit_narrative.lookup import shipped_configs
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.modules.language import LanguageModule
from lit_narrative.modules.sft import SFTModule
from lit_narrative.views import Prompt

SKIP = 1
"""Steps at the start of a fit that are not timed."""


class Bare:
    """The products and the attention of a Llama of given sizes, on numbers that mean nothing."""

    def __init__(self, lm: PreTrainedModel) -> None:
        config = lm.config
        self.layers, self.heads, self.width = config.num_hidden_layers, config.num_attention_heads, config.hidden_size
        inner, rows = config.intermediate_size, config.vocab_size
        # Queries, keys and values; what attention writes; gate and what it gates; down.
        sizes = [(3 * self.width, self.width), (self.width, self.width), (2 * inner, self.width), (self.width, inner)]
        self.weights = [torch.randn(size) for _ in range(self.layers) for size in sizes]
        self.head = torch.randn(rows, self.width)

    def products(self, weights: Sequence[torch.Tensor], rows: int, learn: bool) -> None:
        """``rows`` states through each weight."""
        inputs = {weight.shape[1]: torch.randn(rows, weight.shape[1], requires_grad=learn) for weight in weights}
        for weight in weights:
            states, weight = inputs[weight.shape[1]], weight.detach().requires_grad_(learn)
            there_and_back(fast_linear, (states, weight, None), learn)

    def attention(self, rows: int, queries: int, keys: int, causal: bool, learn: bool) -> None:
        """A block's."""
        shape = rows, self.heads, -1, self.width // self.heads
        parts = [
            torch.randn(rows * count * self.width, requires_grad=learn).view(shape) for count in (queries, keys, keys)
        ]
        there_and_back(partial(functional.scaled_dot_product_attention, is_causal=causal), parts, learn)

    def score(self, batch: CompletionBatch, learn: bool) -> None:
        """Log-probabilities of a batch, each prompt read once where rows share it."""
        shared = shared_prompts(batch.ids, batch.targets)
        rows, width = batch.ids.shape
        if shared is None:
            self.products(self.weights, rows * width, learn)
            for _ in range(self.layers):
                self.attention(rows, width, width, True, learn)
        else:
            (prompts, prompt), (rows, width) = shared.prompts.shape, shared.completions.shape
            self.products(self.weights, prompts * prompt + rows * (width - 1), learn)
            for _ in range(self.layers):
                self.attention(prompts, prompt, prompt, True, learn)
                self.attention(rows, width - 1, width - 1, True, learn)
                self.attention(rows, width - 1, prompt, False, learn)
        self.products([self.head], int(batch.targets.sum()), learn)

    @torch.no_grad()
    def decode(self, prompts: int, group: int, prompt: int, steps: int) -> None:
        """``steps`` tokens of each completion, a group behind one copy of its prompt."""
        rows, depth = prompts * group, self.width // self.heads
        inputs = {size: torch.randn(rows, size) for size in {weight.shape[1] for weight in self.weights}}
        # Each block has memory of its own, as in a model: what is read every step is more than the caches hold.
        past = [torch.randn(2, rows * self.heads * steps * depth) for _ in range(self.layers)]
        query, ahead = torch.randn(rows, self.heads, 1, depth), torch.randn(prompts, self.heads, prompt, depth)
        grid = query.view(prompts, self.heads, group, depth)
        for step in range(1, steps + 1):
            for block in range(self.layers):
                for weight in self.weights[4 * block : 4 * block + 4]:
                    fast_linear(inputs[weight.shape[1]], weight, None)
                keys, values = past[block][:, : query.numel() * step].view(2, rows, self.heads, step, depth)
                of_prompt = (grid @ ahead.mT).view(rows, self.heads, 1, prompt)
                weights = torch.cat([of_prompt, query @ keys.mT], -1).softmax(-1)
                weights[..., :prompt].reshape(prompts, self.heads, group, prompt) @ ahead
                weights[..., prompt:] @ values
            fast_linear(inputs[self.width], self.head, None)


def there_and_back(function: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor | None], learn: bool) -> None:
    """A function, and its gradients by all inputs if ``learn``."""
    with torch.set_grad_enabled(learn):
        out = function(*inputs)
    if learn:
        torch.autograd.grad(out, [one for one in inputs if one is not None], torch.ones_like(out))


class Steps(Callback):
    """CPU seconds a step of a fit, and the batches of the steps that count.

    Args:
        batches: micro-batches a step.
    """

    def __init__(self, batches: int) -> None:
        self.size, self.seen, self.seconds = batches, 0, 0.0
        self.batches: list[CompletionBatch] = []

    def on_fit_start(self, trainer: Trainer, module: Any) -> None:
        """Let no token end a completion: an untrained policy would end each at a token of its own."""
        if isinstance(module, GRPOModule):
            end_no_text(module.lm, module.tokenizer)

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Start behind the steps that do not count, read the clock at the last one."""
        self.seen += 1
        if self.seen == SKIP * self.size:
            self.start = time.process_time()
        elif self.seen > SKIP * self.size:
            self.batches.append(batch.batch if hasattr(batch, "batch") else batch.examples)
            self.seconds = time.process_time() - self.start

    @property
    def a_step(self) -> float:
        """CPU seconds."""
        return self.seconds / (self.seen / self.size - SKIP)


def end_no_text(lm: PreTrainedModel, tokenizer: Any) -> None:
    """Let no token end a completion."""
    tokenizer.eos_token = lm.generation_config.eos_token_id = None  # type: ignore[union-attr]


class Job:
    """A fit and its floor, which learns from the batches of the fit before it.

    Args:
        kind: of the module.
        settings: a shipped configuration.
        lm: a model of the same sizes.
        folder: with the tokenizer.
        steps: that are timed.
    """

    def __init__(
        self, kind: type[LanguageModule], settings: Mapping[str, Any], lm: PreTrainedModel, folder: Path, steps: int
    ) -> None:
        self.kind, self.settings, self.bare, self.folder, self.steps = kind, settings, Bare(lm), folder, steps
        self.micro_batches = settings["trainer"]["accumulate_grad_batches"]
        self.last = Steps(self.micro_batches)

    def fit(self, number: int) -> float:
        """CPU seconds a step."""
        seed_everything(0, verbose=False)
        self.last = Steps(self.micro_batches)
        options = {name: self.settings["trainer"][name] for name in ("gradient_clip_val", "accumulate_grad_batches")}
        run = bare_trainer(self.folder, self.steps + SKIP, self.last, **options, log_every_n_steps=10)
        model = {**self.settings["model"]["init_args"], "model": sizes(), "tokenizer": str(self.folder)}
        run.fit(self.kind(**model), StoryworldData(**self.settings["data"]["init_args"]))
        return self.last.a_step

    def floor(self, number: int) -> float:
        """CPU seconds a step of the same batches; of GRPO with the decoding and the reference."""
        start = time.process_time()
        for first in range(0, len(self.last.batches), self.micro_batches):
            batches = self.last.batches[first : first + self.micro_batches]
            if self.kind is GRPOModule:
                group, tokens = self.settings["model"]["init_args"]["num_generations"], int(batches[0].targets[0].sum())
                prompts = sum(len(batch.ids) for batch in batches) // group
                assert all(int(batch.targets.sum()) == len(batch.ids) * tokens for batch in batches)  # no text ended
                self.bare.decode(prompts, group, batches[0].ids.shape[1] - tokens, tokens)
                for batch in batches:
                    self.bare.score(batch, False)
            for batch in batches:
                self.bare.score(batch, True)
        return (time.process_time() - start) / self.steps


def config(name: str) -> dict[str, Any]:
    """A shipped configuration of storyworlds."""
    found: dict[str, Any] = yaml.safe_load(shipped_configs()[f"storyworld/{name}"].read_text())
    return found


def sizes() -> dict[str, Any]:
    """Of the model that ``storyworld/sft`` trains."""
    return dict(config("sft")["model"]["init_args"]["model"])


def decoding(lm: PreTrainedModel, tokenizer: Any, tokens: int) -> list[Callable[[int], float]]:
    """Sampling 8 completions of each of 16 prompts, and its floor; CPU seconds a token of all rows."""
    bare, rows = Bare(lm), [row.text for row in list(StoryworldData(train_size=16).prompts("train"))[:16]]
    ids = encode_prompts(tokenizer, [str(row) for row in rows])
    end_no_text(lm, tokenizer)

    def ours(number: int) -> float:
        requests = [
            Request(Prompt(text), row, [1000 * number + 8 * place + n for n in range(8)])
            for place, (text, row) in enumerate(zip(rows, ids, strict=True))
        ]
        start = time.process_time()
        LoopSampler().sample(lm, tokenizer, requests, SamplingParams(tokens))
        return (time.process_time() - start) / tokens

    def floor(number: int) -> float:
        start = time.process_time()
        bare.decode(16, 8, max(map(len, ids)), tokens)
        return (time.process_time() - start) / tokens

    return [ours, floor]


def machine() -> str:
    """The processor, and whether others use it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown processor")
    busy = os.getloadavg()[0] > torch.get_num_threads() + 0.5
    kind = torch.backends.cpu.get_cpu_capability()
    return f"{name}, {kind}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s){', busy' if busy else ''}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--markdown", action="store_true", help="print the table as in docs/benchmarks.md")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sft, grpo = config("sft"), config("grpo")
    tokens = grpo["model"]["init_args"]["sampling"]["max_new_tokens"]
    with tempfile.TemporaryDirectory() as name:
        folder, task = Path(name), StoryworldData(**sft["data"]["init_args"])
        spec = TrainedTokenizer(**sft["model"]["init_args"]["tokenizer"])
        train_tokenizer(task.tokenizer_texts(), spec, task.tokenizer_names()).save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        lm = build_lm(scratch_config(ScratchModel(**sizes()), len(tokenizer), tokenizer.eos_token_id)).eval()
        jobs = Job(SFTModule, sft, lm, folder, 20), Job(GRPOModule, grpo, lm, folder, 1)
        sides: dict[str, list[Callable[[int], float]]] = {
            "SFT, a step": [jobs[0].fit, jobs[0].floor],
            "GRPO, a step": [jobs[1].fit, jobs[1].floor],
            "decoding, a token of 128 rows": decoding(lm, tokenizer, tokens),
        }
        rows = [row(name, *alternate(pair, options.rounds)) for name, pair in sides.items()]
    print(machine())
    show = print_markdown if options.markdown else print_table
    show(["CPU milliseconds", "measured", "floor", "ratio (range)"], rows)


def row(name: str, ours: Sequence[float], floor: Sequence[float]) -> list[str]:
    """Of the table."""
    found = ratios(ours, floor)
    times = [f"{1e3 * median(side):.1f}" for side in (ours, floor)]
    return [name, *times, f"{median(found):.2f} ({min(found):.2f}–{max(found):.2f})"]


if __name__ == "__main__":
    main()
