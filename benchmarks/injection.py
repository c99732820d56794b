"""What injection adds to the time of generation: ``python -m benchmarks.injection``.

Target: CPU time with vectors at most 1.03 times that without. The models have random weights, which cost what trained
ones cost: one of the sizes of ``verbalize/actor_sft``, and a Llama that samples by the step of our own. Both sides
sample by the package's sampler from the same prompts and random streams, each prompt's group behind one copy of it, and
as no token ends a completion, both make as many tokens. Rounds alternate, so that a busy machine slows both.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import NamedTuple

import torch

from benchmarks.rounds import alternate, print_markdown, print_table, ratios
from lit_narrative.lm.load import ScratchModel, build_lm, scratch_config
from lit_narrative.lm.sampler import LoopSampler, Request, SamplingParams
from lit_narrative.lm.tokenizer import TrainedTokenizer, encode_prompt, train_tokenizer
from lit_narrative.lm.vectors.inject import InjectionSettings, Mode, add_injector
from lit_narrative.seeds import stream_seed
from lit_narrative.tasks.verbalize.prompts import ACTOR_TEMPLATE, TAGS, ActorPrompt
from lit_narrative.tasks.verbalize.stories import vocabulary_texts
from lit_narrative.views import Prompt


class Case(NamedTuple):
    """A model, how vectors get into it, and how many tokens it writes."""

    name: str
    model: ScratchModel
    mode: Mode
    layer: int
    tokens: int


CASES = [
    Case("GPT-2, replace", ScratchModel("gpt2", 48, layers=3, heads=4, positions=128), "replace", 0, 12),
    Case("GPT-2, replace", ScratchModel("gpt2", 48, layers=3, heads=4, positions=128), "replace", 0, 64),
    Case("Llama, norm_add", ScratchModel("llama", 128, layers=2, heads=8, positions=320), "norm_add", 1, 64),
    Case("Llama, norm_add", ScratchModel("llama", 128, layers=2, heads=8, positions=320), "norm_add", 1, 180),
]


def sides(case: Case, prompts: int, group: int) -> list[Callable[[int], float]]:
    """Generation with vectors and without: CPU seconds of a round."""
    tokenizer = train_tokenizer([*vocabulary_texts(), ACTOR_TEMPLATE], TrainedTokenizer(kind="words"), TAGS)
    lm = build_lm(scratch_config(case.model, len(tokenizer), tokenizer.eos_token_id)).eval()
    injector = add_injector(lm, tokenizer, InjectionSettings(case.mode, [case.layer]))
    tokenizer.eos_token = lm.generation_config.eos_token_id = None  # type: ignore[union-attr] # no token ends a row
    text = ActorPrompt(ACTOR_TEMPLATE, str(injector.settings.marker)).text
    ids = encode_prompt(tokenizer, text)
    vectors = torch.randn(prompts, case.model.hidden_size, generator=torch.Generator().manual_seed(0)).numpy()

    def sample(injected: bool, turn: int) -> float:
        requests = [
            Request(
                Prompt(text, injection=vectors[n] if injected else None),
                ids,
                [stream_seed(turn, n, m) for m in range(group)],
            )
            for n in range(prompts)
        ]
        start = time.process_time()
        rollouts = LoopSampler().sample(lm, tokenizer, requests, SamplingParams(case.tokens))
        assert all(len(rollout.completion_ids) == case.tokens for rollout in rollouts)
        return time.process_time() - start

    return [partial(sample, True), partial(sample, False)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--group", type=int, default=8, help="completions a prompt")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = []
    for case in CASES:
        both = sides(case, options.prompts, options.group)
        alternate(both, 2)  # the first calls check the model and fill caches
        vectors, none = alternate(both, options.rounds)
        found = sorted(ratios(vectors, none))
        times = [f"{median(side):.3f}" for side in (vectors, none)]
        table.append([case.name, str(case.tokens), *times, f"{median(found):.3f} ({found[0]:.2f}–{found[-1]:.2f})"])
    columns = ["model, mode", "tokens", "with vectors", "without", "ratio (range)"]
    (print_markdown if options.markdown else print_table)(columns, table)


if __name__ == "__main__":
    main()
