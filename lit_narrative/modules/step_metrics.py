"""What is logged about an optimizer step: micro-batches of all processes taken together."""

import math
from collections.abc import Callable, Mapping

import torch


class StepMetrics:
    """Adds up the micro-batches of one optimizer step.

    A *share* has been divided by the step's totals already: shares are summed over micro-batches and processes. An
    *extreme* is the least (``…min``) or greatest value of any; plus or minus infinity says that there was none.
    """

    def __init__(self) -> None:
        self._shares: dict[str, torch.Tensor] = {}
        self._extremes: dict[str, torch.Tensor] = {}

    def add(self, shares: Mapping[str, torch.Tensor], extremes: Mapping[str, torch.Tensor]) -> None:
        """Take in a micro-batch."""
        for name, share in shares.items():
            self._shares[name] = self._shares[name] + share.detach() if name in self._shares else share.detach()
        for name, value in extremes.items():
            known = self._extremes.get(name, value)
            self._extremes[name] = (torch.minimum if name.endswith("min") else torch.maximum)(known, value).detach()

    def pop(self, gather: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
        """The step's metrics over all processes, by one collective; begins the next step.

        An extreme of nothing, in a step whose completions are all masked, is left out.

        Args:
            gather: puts the (1, n) rows of all processes together, (W, n).
        """
        names, extremes = list(self._shares), list(self._extremes)
        values = [*self._shares.values(), *self._extremes.values()]
        rows = gather(torch.stack([value.float() for value in values])[None])
        self._shares, self._extremes = {}, {}
        found = dict(zip(names, rows[:, : len(names)].sum(0).tolist(), strict=True))
        for place, name in enumerate(extremes, len(names)):
            least = name.endswith("min")
            value = float(rows[:, place].min() if least else rows[:, place].max())
            if value != (math.inf if least else -math.inf):
                found[name] = value
        return found
