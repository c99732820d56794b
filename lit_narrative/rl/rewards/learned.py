"""A trained reward model as a reward: for GRPO, and to choose among samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from weakref import WeakKeyDictionary

import torch

from lit_narrative.rl.rewards.model import RewardModel, check_trained
from lit_narrative.text import asked
from lit_narrative.views import Rollout


@dataclass(frozen=True)
class LearnedReward:
    """The score that a trained reward model gives a text, on any task.

    In a configuration: ``lit_narrative.rl.rewards.learned:LearnedReward(checkpoint='runs/…/last.ckpt')``. The
    callback `RewardMonitor` watches how far the policy goes from what the model was trained on. `BestOf` takes it too.

    It holds the checkpoint's path and not the model, so that it can be sent to a worker process in a few bytes.

    Args:
        checkpoint: written by `RewardModule`.
        prompt: score the prompt and the completion as one text, rather than the completion alone.
        device: where it works; default: the GPU of this process if there is one, else the CPU.
        name: what logs call it.
        trust_remote_code: run the Python code that the checkpoint's encoder brings along.

    Raises:
        UserError: there is no such checkpoint, it holds no reward model, or one that was never trained.
    """

    checkpoint: str
    prompt: bool = False
    device: str | None = None
    name: str = "reward"
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        # Loads the file, so that a wrong path fails as the run begins and not at the first rewards.
        check_trained(self.model)

    @property
    def model(self) -> RewardModel:
        """The model in evaluation mode; each process reads a file once, and again when it has changed."""
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        file = Path(self.checkpoint)
        changed = file.stat().st_mtime_ns if file.is_file() else 0
        return _loaded(self.checkpoint, changed, device, self.trust_remote_code)

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Scores, in order."""
        return self.rate([self.text(rollout) for rollout in rollouts])

    def rate(self, texts: Sequence[str]) -> list[float]:
        """Scores of texts, in the units of the training scores."""
        return [score for score, _ in _score(self.model, texts)]

    def text(self, rollout: Rollout) -> str:
        """The text of a rollout that is scored."""
        return asked(rollout) + rollout.text if self.prompt else rollout.text

    def ood_score(self, rollouts: Sequence[Rollout]) -> tuple[list[float], list[bool]]:
        """How far rollouts are out of the distribution that the model was trained on.

        Returns:
            For each rollout the distance of its vector from the training set (about 1 there), and whether its score is
            beyond all those of training texts.
        """
        low, high = self.model.head.score_range.tolist()
        result = _score(self.model, [self.text(rollout) for rollout in rollouts])
        return [distance for _, distance in result], [not low <= score <= high for score, _ in result]


# Weak keys: a model that the cache of models has dropped is freed.
_last: WeakKeyDictionary[RewardModel, dict[str, tuple[float, float]]] = WeakKeyDictionary()


def _score(model: RewardModel, texts: Sequence[str]) -> list[tuple[float, float]]:
    """Score and distance of each text.

    Those of the last batch are kept: `RewardMonitor` asks about the rollouts that GRPO has just scored.
    """
    known = _last.get(model, {})
    # The same text twice in a batch is encoded once.
    if new := [text for text in dict.fromkeys(texts) if text not in known]:
        known = known | dict(zip(new, zip(*model.score_and_distance(new), strict=True), strict=True))
    _last[model] = {text: known[text] for text in texts}
    return [known[text] for text in texts]


@lru_cache(maxsize=4)
def _loaded(checkpoint: str, changed: int, device: str, trust_remote_code: bool) -> RewardModel:
    """A reward model that is in use; ``changed``, the file's modification time, tells a rewritten file apart."""
    return RewardModel.load(checkpoint, trust_remote_code).to(device)
