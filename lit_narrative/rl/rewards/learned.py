"""A reward model as a reward: for GRPO, and to choose among samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from weakref import WeakKeyDictionary

import torch

from lit_narrative.errors import UserError
from lit_narrative.lm.checkpoint import load_checkpoint
from lit_narrative.modules.reward import RewardModule
from lit_narrative.rl.rewards.model import REWARD
from lit_narrative.views import Rollout


@dataclass(frozen=True)
class LearnedReward:
    """The score that a trained reward model gives a text, on any task.

    In a configuration: ``lit_narrative.rl.rewards.learned:LearnedReward(checkpoint='runs/…/last.ckpt')``. The
    callback `RewardMonitor` watches how far the policy goes from what the model was trained on. `BestOf` takes it too.

    Args:
        checkpoint: what `RewardModule` wrote.
        prompt: judge the prompt and the completion as one text, rather than the completion alone.
        device: where it works; default: the GPU of this process if there is one, else the CPU.
        name: what logs call it.

    Raises:
        UserError: there is no such checkpoint, it holds no reward model, or one that was never trained.
    """

    checkpoint: str
    prompt: bool = False
    device: str | None = None
    name: str = "reward"

    def __post_init__(self) -> None:
        self.module.check_trained()

    @property
    def module(self) -> RewardModule:
        """The model, read once a process, in evaluation mode."""
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        file = Path(self.checkpoint)
        return _loaded(self.checkpoint, file.stat().st_mtime_ns if file.is_file() else 0, device)

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Scores, in order."""
        return self.rate([self.text(rollout) for rollout in rollouts])

    def rate(self, texts: Sequence[str]) -> list[float]:
        """Scores of texts, in the units of the training scores."""
        return [score for score, _ in _judged(self.module, texts)]

    def text(self, rollout: Rollout) -> str:
        """What is judged of a rollout."""
        return rollout.prompt + rollout.text if self.prompt else rollout.text

    def strain(self, rollouts: Sequence[Rollout]) -> tuple[list[float], list[bool]]:
        """How far the model is from what it was trained on.

        Returns:
            For each rollout the distance of its vector from the training set (about 1 there), and whether its score is
            beyond all those of training texts.
        """
        low, high = self.module.head.score_range.tolist()
        found = _judged(self.module, [self.text(rollout) for rollout in rollouts])
        return [distance for _, distance in found], [not low <= score <= high for score, _ in found]


_last: WeakKeyDictionary[RewardModule, dict[str, tuple[float, float]]] = WeakKeyDictionary()


def _judged(module: RewardModule, texts: Sequence[str]) -> list[tuple[float, float]]:
    """Score and distance of each text; of the last batch they are remembered, as who watches a reward asks again."""
    known = _last.get(module, {})
    if new := [text for text in dict.fromkeys(texts) if text not in known]:
        known = known | dict(zip(new, zip(*module.score_and_distance(new), strict=True), strict=True))
    _last[module] = {text: known[text] for text in texts}
    return [known[text] for text in texts]


@lru_cache(maxsize=4)
def _loaded(checkpoint: str, changed: int, device: str) -> RewardModule:
    """A reward model that is in use; a file that has ``changed`` is read again."""
    if REWARD not in load_checkpoint(checkpoint):
        raise UserError(f"'{checkpoint}' holds no reward model; give a checkpoint that RewardModule wrote")
    return RewardModule.load_from_checkpoint(checkpoint, map_location="cpu").to(device).eval().requires_grad_(False)
