"""Our trainers against TRL's on the same model, data and settings: ``python -m benchmarks.rl grpo``, or ``sft``.

Targets: GRPO at least 1.8 times TRL's steps a CPU second with no more memory, and less than 8 % of the step outside of
the named parts; SFT at least 1.4 times TRL's tokens a CPU second. ``--model FOLDER`` compares the
two on adapters of a pretrained model, on shorter texts. Needs the extra ``bench``.
"""

import argparse
import json
from dataclasses import fields
from pathlib import Path

from benchmarks.rl.compare import as_json, measure, show
from benchmarks.rl.shape import PRETRAINED, Shape


def parser() -> argparse.ArgumentParser:
    """The command line."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--rounds", type=int, default=5, help="of each side")
    common.add_argument("--steps", type=int, default=Shape.steps, help="measured in a round")
    common.add_argument("--warmup", type=int, default=Shape.warmup, help="steps before them")
    common.add_argument("--threads", type=int, default=Shape.threads)
    common.add_argument("--device", choices=("cpu", "cuda"), default=Shape.device)
    common.add_argument("--trl-defaults", action="store_true", help="TRL in bfloat16 with gradient checkpointing")
    common.add_argument(
        "--model", help="folder of a pretrained model, with adapters of rank 16; sizes are smaller then"
    )
    common.add_argument("--json", type=Path, help="write all that was measured to this file")
    common.add_argument("--markdown", action="store_true", help="print the tables as in docs/benchmarks.md")
    whole = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = whole.add_subparsers(dest="job", required=True)
    jobs.add_parser("sft", parents=[common], help="32 examples of 160 tokens a step")
    grpo = jobs.add_parser("grpo", parents=[common], help="4 prompts x 8 completions of 128 tokens a step")
    grpo.add_argument("--compile", action="store_true", help="sample by a compiled step (sampling.compile)")
    grpo.add_argument("--mu", type=int, default=Shape.mu, help="optimizer steps on each batch of completions")
    grpo.add_argument("--beta", type=float, default=Shape.beta, help="weight of the divergence from the reference")
    grpo.add_argument("--lengths", choices=("constant", "ragged"), default=Shape.lengths, help="of the completions")
    return whole


def main() -> None:
    """Measure, print, write."""
    options = parser().parse_args()
    given = vars(options)
    sizes = PRETRAINED[options.job] if options.model else {}
    shape = Shape(**sizes, **{item.name: given[item.name] for item in fields(Shape) if item.name in given})
    sides = measure(options.job, shape, options.rounds)
    command = ["python", "-m", "benchmarks.rl", options.job]
    defaults = vars(parser().parse_args([options.job]))
    for name, value in given.items():
        if value != defaults[name] and name not in ("json", "markdown"):
            command += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    if options.json:
        options.json.write_text(json.dumps(as_json(command, shape, sides), indent=1), encoding="utf-8")
    show(command, shape, sides, options.markdown)


if __name__ == "__main__":
    main()
