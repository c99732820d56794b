"""One side of one round in a separate process: ``python -m benchmarks.rl.worker ours grpo SHAPE FOLDER OUT``.

With ``files`` for the side it writes the model and the tokenizer that both sides load.
"""

import argparse
import importlib
import json
from importlib.metadata import version
from pathlib import Path

from benchmarks.rl.clock import Clock, Round, peak_memory
from benchmarks.rl.shape import Shape, write_model


def main() -> None:
    """Measure and write the round as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=("ours", "theirs", "products", "files"))
    parser.add_argument("job", choices=("grpo", "sft"))
    parser.add_argument("shape", type=lambda text: Shape(**json.loads(text)), help="as JSON")
    parser.add_argument("folder", type=Path, help="of the model and the tokenizer")
    parser.add_argument("out", type=Path, help="where the round goes")
    options = parser.parse_args()
    if options.side == "files":
        write_model(options.shape, options.folder)
        return
    side = importlib.import_module(f"benchmarks.rl.{options.side}")
    import torch

    torch.set_num_threads(options.shape.threads)
    result = Round(peak_memory(), {name: version(name) for name in side.VERSIONS})
    clock = Clock(options.shape.warmup)
    getattr(side, f"run_{options.job}")(options.shape, options.folder, clock)
    result.steps, result.peak = clock.steps, peak_memory()
    options.out.write_text(json.dumps(result.as_dict()), encoding="utf-8")


if __name__ == "__main__":
    main()
