"""The reward head: the score of a text from its vector, and the losses that it learns from."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from lit_narrative.errors import UserError, check_least


class RewardHead(nn.Module):
    """A multilayer perceptron on standardised vectors: Linear, ReLU, Dropout for each hidden width, then Linear to 1.

    Its output, the *logit*, is in standard units of the training scores; the score is that output in their own units. A
    difference of two logits is the log-odds that the first text is preferred (Bradley and Terry 1952).

    Args:
        width: length d of the vectors.
        hidden: widths of the hidden layers; none makes it linear.
        dropout: rate after each hidden layer, in 0..1.
        limit: how many deviations from the training mean a component may be; one further away is read as that far.
            Along components in which training vectors hardly vary, nothing is learned, and a text unlike all of them
            would get an arbitrary score.

    Attributes:
        settings: those arguments, by name.
        mean: (d,) of the training vectors.
        deviation: (d,) of the training vectors; 1 where they do not vary.
        score_mean: of the training scores; 0 where there are only preferences.
        score_deviation: of the training scores; 1 where there are only preferences.
        score_range: (2,) least and greatest score that the head gave to training texts.
        steps: optimizer steps that it was trained for.

    Raises:
        UserError: a width or the rate is out of range.
    """

    mean: Tensor
    deviation: Tensor
    score_mean: Tensor
    score_deviation: Tensor
    score_range: Tensor
    steps: Tensor

    def __init__(
        self, width: int, hidden: Sequence[int] = (256, 128, 64), dropout: float = 0.2, limit: float | None = None
    ) -> None:
        super().__init__()
        check_head(hidden, dropout)
        self.settings = {"width": width, "hidden": list(hidden), "dropout": dropout, "limit": limit}
        self.limit = limit
        layers: list[nn.Module] = []
        for before, after in zip([width, *hidden], hidden, strict=False):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
        self.network = nn.Sequential(*layers, nn.Linear([width, *hidden][-1], 1))
        # Buffers: units go into the checkpoint and to the device along with the weights that were learned in them.
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))
        self.register_buffer("score_mean", torch.zeros(()))
        self.register_buffer("score_deviation", torch.ones(()))
        self.register_buffer("score_range", torch.zeros(2))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, vectors: Tensor) -> Tensor:
        """Logits (n,) of vectors (n, d)."""
        standard = self.standard(vectors)
        if self.limit is not None:
            standard = standard.clamp(-self.limit, self.limit)
        # Vectors come in float32, whatever the run's precision has made of the weights.
        return self.network(standard.to(next(self.network.parameters()).dtype)).squeeze(-1)

    def standard(self, vectors: Tensor) -> Tensor:
        """Vectors (n, d) with the training set's mean 0 and deviation 1 in each component."""
        return (vectors - self.mean) / self.deviation

    def scores(self, logits: Tensor) -> Tensor:
        """Logits in the units of the training scores."""
        return self.score_mean + self.score_deviation * logits

    def distance(self, vectors: Tensor) -> Tensor:
        """How far (n, d) vectors are from the training set: (n,) root mean squares of standardised components.

        This is the Mahalanobis distance for a diagonal covariance, over the square root of d: the mean of its squares
        over the training set is 1.
        """
        return self.standard(vectors).square().mean(-1).sqrt()

    def fit_units(self, vectors: Tensor, scores: Tensor) -> None:
        """Take the units from training vectors (n, d) and scores (m,), which may be none."""
        self.mean.copy_(vectors.mean(0))
        self.deviation.copy_(_deviation(vectors))
        if len(scores):
            self.score_mean.copy_(scores.mean())
            self.score_deviation.copy_(_deviation(scores))

    def losses(self, logits: Tensor, others: Tensor, paired: Tensor, scores: Tensor) -> Tensor:
        """The loss of each of n rows: (n,), in the precision of the ratings.

        A rated row: the squared error in standard units. A preference: -log σ(logit - logit of the other text).

        Args:
            logits: (n,) of the texts.
            others: (p,) of the other texts of preferences, in order.
            paired: (n,) bool, p of them true.
            scores: (n,) ratings; not read where paired.
        """
        # Filled: the score of a preference is not read and may be NaN, which would pass through the gradient's mask.
        target = (scores.masked_fill(paired, 0.0) - self.score_mean) / self.score_deviation
        logits, others = logits.to(target.dtype), others.to(target.dtype)  # of half precision under mixed precision
        losses = (logits - target).square()
        return losses.masked_scatter(paired, -logsigmoid(logits[paired] - others))


def check_head(hidden: Sequence[int], dropout: float) -> None:
    """Check the sizes of a head.

    Raises:
        UserError: one is out of range.
    """
    for width in hidden:
        check_least("model.hidden", width, 1)
    if not 0 <= dropout < 1:
        raise UserError(f"model.dropout is {dropout}; it must be 0 or more, and below 1")


def _deviation(values: Tensor) -> Tensor:
    """Population deviation over the rows; 1 where there is none."""
    deviation = values.std(0, correction=0)
    # Not at exactly 0: the rounding noise of a constant component would be blown up to unit size.
    return torch.where(deviation > 1e-6, deviation, 1.0)
