"""Peak memory of SmolLM2 with adapters on 4 rows of 600 tokens: ``python -m tests.pretrained.memory sft MODEL``.

A process of its own, so that the peak is that of this training; it writes MiB, the libraries included.
"""

import resource
import sys
import tempfile
from typing import Any

import torch
from lightning.pytorch import Trainer

from lit_narrative.datamodules.base import Split
from lit_narrative.lm.load import Lora
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.modules.language import LanguageModule
from lit_narrative.modules.sft import SFTModule
from lit_narrative.views import Example, Prompt
from tests.helpers import TinyTask

ROWS, TOKENS, NEW_TOKENS = 4, 600, 64


class LongRows(TinyTask):
    """Examples and prompts of a word a token."""

    def examples(self, split: Split) -> list[Example]:
        return [Example("The", " sea" * (TOKENS - 2)) for _ in range(ROWS)]

    def prompts(self, split: Split) -> list[Prompt]:
        prompt = "The" + " sea" * (TOKENS - NEW_TOKENS - 1)
        return [Prompt(f"{prompt} {word}", {"index": n}) for n, word in enumerate(("was", "is"))]


def main(algorithm: str, model: str) -> None:
    """A step of SFT, or of GRPO: two prompts, two completions each."""
    torch.set_num_threads(1)
    given: dict[str, Any] = {"model": model, "lora": Lora()}
    module: LanguageModule = SFTModule(**given)
    if algorithm == "grpo":
        module = GRPOModule({"low": 1.0}, 2, sampling=SamplingParams(NEW_TOKENS), **given)
    with tempfile.TemporaryDirectory() as folder:
        quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
        trainer = Trainer(accelerator="cpu", default_root_dir=folder, max_steps=1, limit_val_batches=0, **quiet)
        trainer.fit(module, LongRows(batch_size=ROWS if algorithm == "sft" else 2))
    sys.stdout.write(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
