"""Memory and time of a training pass as the vocabulary grows: ``python -m benchmarks.vocabulary``.

Target: memory does not grow. A Llama of one block with random weights and adapters on its attention learns from the
same tokens with vocabularies of 1 k to 256 k, by ``score_completions``, which holds a bounded number of logits, and
once by the cross-entropy of all logits, as transformers computes it from ``labels``. Both must give the same loss and
gradients. Each pass has a process of its own; its peak is that of the resident set over what stood before the pass.
"""

import argparse
import multiprocessing
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn import functional

from benchmarks.rounds import print_markdown, print_table
from lit_narrative.lm.load import Lora, ScratchModel, add_lora, build_lm, scratch_config
from lit_narrative.lm.logprobs import completion_batch, score_completions

VOCABULARIES = [2**power for power in (10, 12, 14, 16, 18)]
MIB = 2**20


class Pass(NamedTuple):
    """Peak in MiB, CPU seconds, the loss and the norm of its gradient."""

    peak: float
    seconds: float
    loss: float
    norm: float


def resident(name: str) -> float:
    """MiB: ``VmRSS`` now, or ``VmHWM``, the most so far."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def measure(vocabulary: int, bounded: bool, options: argparse.Namespace) -> Pass:
    """One pass, forward and backward, in this process."""
    torch.set_num_threads(options.threads)
    spec = ScratchModel("llama", hidden_size=options.hidden_size, layers=1, positions=options.tokens)
    lm = add_lora(build_lm(scratch_config(spec, vocabulary, 1)), Lora())
    rows = torch.randint(vocabulary, (options.rows, options.tokens), generator=torch.Generator().manual_seed(0))
    batch = completion_batch([row[:1] for row in rows], [row[1:] for row in rows])
    before, start = resident("VmRSS"), time.process_time()
    if bounded:
        loss = -score_completions(lm, batch).logprobs.mean()
    else:
        logits = lm(input_ids=batch.ids, use_cache=False).logits[:, :-1]
        loss = functional.cross_entropy(logits.flatten(0, 1), batch.ids[:, 1:].flatten())
    loss.backward()
    seconds, peak = time.process_time() - start, resident("VmHWM") - before
    gradients = [p.grad.flatten() for p in lm.parameters() if p.grad is not None]
    return Pass(peak, seconds, loss.item(), torch.cat(gradients).norm().item())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256, help="a row")
    parser.add_argument("--hidden-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    positions, table = options.rows * (options.tokens - 1), []
    # Forked processes have the libraries in memory already; the parent computes nothing that a fork could break.
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        for vocabulary in VOCABULARIES:
            run = partial(pool.apply, measure)
            ours, full = (run((vocabulary, bounded, options)) for bounded in (True, False))
            torch.testing.assert_close(ours[2:], full[2:], atol=0, rtol=1e-4)
            sizes = [f"{size:.0f}" for size in (positions * vocabulary * 4 / MIB, ours.peak, full.peak)]
            times = [f"{ours.seconds:.2f}", f"{full.seconds:.2f}", f"{full.seconds / ours.seconds:.2f}"]
            table.append([f"{vocabulary:,}", *sizes, *times])
    columns = ["vocabulary", "logits, MiB", "peak, MiB", "all logits", "CPU seconds", "all logits", "ratio"]
    (print_markdown if options.markdown else print_table)(columns, table)


if __name__ == "__main__":
    main()
