"""Steered generation, ours against the published loop and against unsteered text: ``python -m benchmarks.steering``.

Targets: per token at least 3 times as fast as the published loop at batch 1, and 12 times per sample at batch 16. Both
sides have the same weights, prompt, bag and settings; the published loop knows batch 1 only. Before anything is timed
both write greedily and have to agree. CPU seconds of this process, rounds alternate; ours is timed once its passes are
traced, what tracing takes is printed beside. With ``--markdown`` the tables come as Markdown.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from transformers import GPT2Config, PreTrainedModel

from benchmarks.rounds import alternate, print_markdown, print_table, ratios
from benchmarks.steering.published import Published, generate
from lit_narrative.lm.load import build_lm
from lit_narrative.steering.bags import BagOfWords, BagsOfRows
from lit_narrative.steering.past import Reader
from lit_narrative.steering.pplm import flat
from lit_narrative.steering.pplm.settings import PPLMSettings
from lit_narrative.steering.pplm.steerer import PPLM, PPLMDecoding
from lit_narrative.steering.sampler import SteeredDecoding, Texts

BAG = tuple(range(20))
SETTINGS = PPLMSettings(stepsize=0.02, window_anchor="oldest", temperature_on="steered")


def model(layers: int, width: int, vocabulary: int) -> PreTrainedModel:
    """A GPT-2 of these sizes with random weights."""
    config = GPT2Config(
        n_layer=layers, n_embd=width, n_head=4, vocab_size=vocabulary, n_positions=512, bos_token_id=0, eos_token_id=0
    )
    return build_lm(config).eval().requires_grad_(False)


def begin(lm: PreTrainedModel, rows: int, context: int, new_tokens: int, iterations: int) -> PPLMDecoding:
    """``rows`` texts of ``context`` tokens under PPLM."""
    ids = (torch.arange(context) % 97).repeat(rows, 1)
    bags = BagsOfRows([BagOfWords("bag", (), BAG, (1.0,) * len(BAG))], [1.0])
    settings = PPLMSettings(**{**vars(SETTINGS), "num_iterations": iterations})
    given = Texts(ids, torch.ones_like(ids, dtype=torch.bool), torch.arange(rows), [{}] * rows, new_tokens, 1.0)
    return PPLM(settings, bags).begin(lm, given)


@torch.no_grad()
def write(decoding: SteeredDecoding, tokens: int) -> torch.Tensor:
    """Greedy continuation, (rows, tokens)."""
    found: list[torch.Tensor] = []
    for _ in range(tokens):
        found.append(decoding.scores(found[-1] if found else None).steered.argmax(-1))
    return torch.stack(found, dim=1)


def ours(lm: PreTrainedModel, rows: int, context: int, tokens: int, iterations: int, _: int) -> float:
    """CPU seconds a token of one text."""
    start = time.process_time()
    with torch.no_grad():
        decoding = begin(lm, rows, context, tokens, iterations)
    write(decoding, tokens)
    return (time.process_time() - start) / tokens / rows


def published(lm: PreTrainedModel, context: int, tokens: int, iterations: int, _: int) -> float:
    """The same of the published loop."""
    start = time.process_time()
    generate(lm, (torch.arange(context) % 97).tolist(), tokens, Published(num_iterations=iterations, bags=[BAG]))
    return (time.process_time() - start) / tokens


@torch.no_grad()
def plain(lm: PreTrainedModel, rows: int, context: int, tokens: int, _: int) -> float:
    """The same without steering."""
    start = time.process_time()
    ids = (torch.arange(context) % 97).repeat(rows, 1)
    reader = Reader(lm, ids, torch.ones_like(ids, dtype=torch.bool), torch.arange(rows))
    token = None
    for _step in range(tokens):
        reader.advance(token)
        token = reader.read().logits.argmax(-1)
    return (time.process_time() - start) / tokens / rows


def check(lm: PreTrainedModel, context: int, tokens: int) -> None:
    """Both sides write the same; ours before and after its passes are traced."""
    theirs = generate(lm, (torch.arange(context) % 97).tolist(), tokens, Published(bags=[BAG])).tokens[0, context:]
    for _ in range(2):
        found = write(begin(lm, 1, context, tokens, 3), tokens)[0]
        assert torch.equal(found, theirs), "ours and the published loop disagree"
    print(f"self-check: {tokens} greedy tokens of both sides are the same")


def traced(lm: PreTrainedModel, rows: int, context: int, tokens: int) -> float:
    """Trace the passes of a shape; CPU seconds it took beside the work itself."""
    first, flat.TRACE_AFTER = flat.TRACE_AFTER, 1
    cold = ours(lm, rows, context, tokens, 1, 0)
    flat.TRACE_AFTER = first
    again = first // 2 // tokens + 1
    for _ in range(again):  # so that the shape has come up often enough for good
        warm = ours(lm, rows, context, tokens, 3, 0)
    return max(cold - warm, 0.0) * tokens * rows


def peak(lm: PreTrainedModel, context: int, tokens: int, iterations: int) -> float:
    """MiB of tensors that a batch of 16 needs at most beside the model."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        ours(lm, 16, context, tokens, iterations, 0)
    sizes, held, most = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"], 0, 0
    for event in sorted(sizes, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most / 2**20


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("layers", 4), ("width", 128), ("vocabulary", 1000), ("tokens", 32), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--contexts", type=int, nargs="+", default=[16, 64, 200])
    parser.add_argument("--iterations", type=int, nargs="+", default=[1, 3, 10])
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    show: Callable[..., None] = print_markdown if args.markdown else print_table
    lm = model(args.layers, args.width, args.vocabulary)
    check(lm, 16, args.tokens)
    rows = []
    for context in args.contexts:
        cost = [traced(lm, batch, context, args.tokens) for batch in (1, 16)]
        sides = [partial(published, lm, context, args.tokens, 3)]
        sides += [partial(ours, lm, batch, context, args.tokens, 3) for batch in (1, 16)]
        theirs, *mine = alternate(sides, args.rounds)
        gains = [f"{median(ratios(theirs, found)):.1f}" for found in mine]
        rows.append(
            [str(context), *(f"{1e3 * median(times):.2f}" for times in (theirs, *mine)), *gains, f"{sum(cost):.1f}"]
        )
    show(["context", "published, ms", "ours, ms", "ours, batch 16", "gain", "gain, batch 16", "tracing, s"], rows)
    rows = []
    for iterations in args.iterations:
        context = args.contexts[0]
        sides = [partial(plain, lm, batch, context, args.tokens) for batch in (1, 16)]
        sides += [partial(ours, lm, batch, context, args.tokens, iterations) for batch in (1, 16)]
        times = alternate(sides, args.rounds)
        times_more = [f"{median(ratios(times[2 + side], times[side])):.1f}" for side in (0, 1)]
        rows.append([str(iterations), *times_more, f"{peak(lm, context, args.tokens, iterations):.1f}"])
    show(["iterations", "x plain", "x plain, batch 16", "peak MiB, batch 16"], rows)


if __name__ == "__main__":
    main()
