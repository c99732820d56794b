"""The callback: a limerick after each validation, to see how they change."""

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from lit_narrative.views import Prompt


class Scrapbook(Callback):
    """Appends what the policy makes of one prompt to ``scrapbook.txt`` in the run folder.

    Args:
        prompt: what it continues.
    """

    def __init__(self, prompt: str = "There once was a baker with a shell,\n") -> None:
        self.prompt = prompt

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and not trainer.sanity_checking:
            (rollout,) = pl_module.generate([Prompt(self.prompt)], seed=trainer.global_step)
            with Path(trainer.default_root_dir, "scrapbook.txt").open("a", encoding="utf-8") as file:
                file.write(f"step {trainer.global_step}\n{self.prompt}{rollout.text}\n\n")
