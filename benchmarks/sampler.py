"""Tokens sampled a second, ours against ``transformers.generate``: ``python -m benchmarks.sampler``.

Target: at least 1.5 times the library's tokens per CPU second, on the model of ``storyworld/sft`` and real prompts.
Lengths are ragged in practice, so the model must know how to end a world: give a trained checkpoint by
``--checkpoint runs/storyworld/sft/checkpoints/last.ckpt``, or a short warm start is run first (about a minute). A
pretrained model is given by ``--model FOLDER``; the target is 1.3 times there.

Both sides get the same prompts, the same temperature, no filters and the same longest completion, and both count the
tokens up to the end token. Rounds alternate, so that a busy machine slows both; medians and their ratios are printed.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.rounds import Rates, alternate, print_rates
from lit_narrative.cli.main import main as lit_narrative
from lit_narrative.datamodules.storyworld import StoryworldData
from lit_narrative.lm.checkpoint import read_language_model
from lit_narrative.lm.load import load_lm
from lit_narrative.lm.sampler import LoopSampler, Request, SamplingParams
from lit_narrative.lm.tokenizer import encode_prompt, load_tokenizer
from lit_narrative.seeds import stream_seed
from lit_narrative.views import Prompt

Sample = Callable[[int], int]
"""Sample the whole batch with a seed; how many tokens came."""


def warm_start(folder: str, steps: int) -> str:
    """The model of ``storyworld/sft`` after a few steps."""
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.limit_val_batches=0", "--trainer.accelerator=cpu"]
    small = [f"--trainer.max_steps={steps}", f"--trainer.val_check_interval={steps}"]
    lit_narrative(["fit", "--config", "storyworld/sft", f"--trainer.default_root_dir={folder}", *quiet, *small])
    return str(Path(folder, "checkpoints", "last.ckpt"))


def our_sampler(
    lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str], group: int, params: SamplingParams
) -> Sample:
    """The project's sampler, with its text and log-probabilities."""
    rows = [(prompt, encode_prompt(tokenizer, prompt)) for prompt in prompts]

    def sample(seed: int) -> int:
        requests = [
            Request(Prompt(text), ids, [stream_seed(seed, place, n) for n in range(group)])
            for place, (text, ids) in enumerate(rows)
        ]
        return sum(len(r.completion_ids) for r in LoopSampler().sample(lm, tokenizer, requests, params))

    return sample


def library(
    lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str], group: int, params: SamplingParams
) -> Sample:
    """``generate`` on the same rows, left-padded; token ids only."""
    tokenizer.padding_side = "left"
    inputs = tokenizer([prompt for prompt in prompts for _ in range(group)], return_tensors="pt", padding=True)
    width = inputs["input_ids"].shape[1]
    options: dict[str, Any] = {
        "do_sample": True,
        "temperature": params.temperature,
        "top_k": 0,
        "top_p": 1.0,
        "max_new_tokens": params.max_new_tokens,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }

    def sample(seed: int) -> int:
        torch.manual_seed(seed)
        ids = lm.generate(inputs["input_ids"], attention_mask=inputs["attention_mask"], **options)[:, width:]  # type: ignore[operator]
        ended = (ids == tokenizer.eos_token_id).int()
        return int((ended.cumsum(1) - ended == 0).sum())

    return sample


def rate(sample: Sample, seed: int) -> Rates:
    """One round."""
    cpu, wall = time.process_time(), time.perf_counter()
    tokens = sample(seed)
    return Rates(tokens / (time.process_time() - cpu), tokens / (time.perf_counter() - wall))


def compare(ours: Sample, theirs: Sample, rounds: int) -> list[list[Rates]]:
    """Alternating rounds after one of each to warm up."""
    ours(0), theirs(0)
    return alternate([partial(rate, ours), partial(rate, theirs)], rounds)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--checkpoint", help="of storyworld/sft; default: a short warm start")
    given.add_argument("--model", help="folder of a pretrained model")
    parser.add_argument("--steps", type=int, default=300, help="of the warm start")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--group", type=int, default=8, help="completions a prompt")
    parser.add_argument("--max-new-tokens", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lm: PreTrainedModel
    if options.model:
        lm, tokenizer = load_lm(options.model), load_tokenizer(options.model)
    else:
        with tempfile.TemporaryDirectory() as folder:
            lm, tokenizer = read_language_model(options.checkpoint or warm_start(folder, options.steps))
    lm.eval()
    prompts = [row.text for row in islice(StoryworldData().prompts("val"), options.prompts)]
    params = SamplingParams(options.max_new_tokens)
    ours, theirs = (make(lm, tokenizer, prompts, options.group, params) for make in (our_sampler, library))
    print(f"{sum(p.numel() for p in lm.parameters()):,} parameters, {options.prompts} prompts x {options.group}")
    print_rates(("ours", "generate"), *compare(ours, theirs, options.rounds))


if __name__ == "__main__":
    main()
