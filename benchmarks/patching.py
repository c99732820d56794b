"""Activation patching in batches against one hooked forward pass for each patch: ``python -m benchmarks.patching``.

Target: at least 5 times the patches a second. The model has the sizes of the cards recipe (2 layers, 64 wide, 4 heads)
and random weights, which cost what trained ones cost. Both sides patch the residual stream, the attention's and the
MLP's output at every layer and position, and every head, in the same pairs; the other side runs each patch of each pair
alone, as one does with ``run_with_hooks``, or all the pairs of a patch together, as ``transformer_lens.patching`` does.
All must give the same differences; rounds alternate, so that a busy machine slows all of them.
"""

import argparse
import time
from functools import partial
from statistics import median

import torch

from benchmarks.rounds import alternate, print_table, ratios
from lit_narrative.circuits.analyses.patching import PatchingSettings, patch
from lit_narrative.circuits.bridge import build_bridge
from lit_narrative.circuits.contrasts import Contrasts
from lit_narrative.circuits.inputs import Positions
from lit_narrative.lm.load import ScratchModel, build_lm, scratch_config


def random_pairs(pairs: int, length: int, vocabulary: int) -> Contrasts:
    """Pairs that differ in one token."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(0, vocabulary, (pairs, length), generator=generator)
    corrupt = clean.clone()
    corrupt[:, length // 2] = (corrupt[:, length // 2] + 1) % vocabulary
    answers = torch.randint(0, vocabulary, (pairs,), generator=generator)
    positions = Positions(("answer",), torch.full((pairs, 1), length - 1))
    return Contrasts(
        clean, corrupt, torch.ones_like(clean, dtype=torch.bool), answers, (answers + 1) % vocabulary, positions
    )


def one_by_one(contrasts: Contrasts) -> list[Contrasts]:
    """The pairs as batches of one."""
    c = contrasts
    rows = [slice(row, row + 1) for row in range(len(c))]
    positions = [Positions(c.positions.names, c.positions.columns[row]) for row in rows]
    return [
        Contrasts(c.clean[row], c.corrupt[row], c.mask[row], c.answer[row], c.distractor[row], named)
        for row, named in zip(rows, positions, strict=True)
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--length", type=int, default=25)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    vocabulary = 340
    spec = ScratchModel("gpt2", hidden_size=64, layers=2, heads=4, positions=64)
    bridge = build_bridge(build_lm(scratch_config(spec, vocabulary, 1)))
    pairs = random_pairs(options.pairs, options.length, vocabulary)

    def patch_all(parts: list[Contrasts], batch_size: int, turn: int) -> tuple[float, float, torch.Tensor]:
        settings = PatchingSettings(places="columns", directions=("denoise",), batch_size=batch_size)
        cpu, wall = time.process_time(), time.perf_counter()
        diffs = torch.cat([torch.from_numpy(patch(bridge, part, settings).logit_diffs) for part in parts], 1)
        runs = diffs.numel()
        return runs / (time.process_time() - cpu), runs / (time.perf_counter() - wall), diffs

    sides = [
        partial(patch_all, [pairs], options.batch_size),
        partial(patch_all, one_by_one(pairs), 1),
        partial(patch_all, [pairs], 1),
    ]
    sides[0](0)
    results = alternate(sides, options.rounds)
    for other in results[1:]:
        torch.testing.assert_close(other[0][2], results[0][0][2], atol=1e-5, rtol=0)
    print(f"{options.pairs} pairs of {options.length} tokens, {results[0][0][2].shape[0]} patches of each")
    rows = []
    for column, unit in enumerate(("per CPU second", "per second")):
        rates = [[float(turn[column]) for turn in side] for side in results]
        cells = [f"{median(rate):.0f}" for rate in rates]
        rows.append([unit, *cells, *(f"{median(ratios(rates[0], rate)):.1f}" for rate in rates[1:])])
    print_table(["patched runs", "batched", "alone", "a patch", "ratio", "ratio"], rows)


if __name__ == "__main__":
    main()
