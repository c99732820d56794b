"""Settings of steering, as the command line gives them."""

import math
from dataclasses import dataclass
from typing import Literal

from lit_narrative.errors import UserError, check_least
from lit_narrative.steering.bags import BagPolicy

Method = Literal["none", "pplm", "bias", "activation", "experts"]


@dataclass(frozen=True)
class Attribute:
    """One attribute that texts are steered to; exactly one of ``bag``, ``column`` and ``head``.

    Args:
        bag: a word list of the task by name, a file with one word a line, words, or words with weights.
        column: a column of the prompts that holds words, or words with weights, for each prompt.
        head: a checkpoint of ``ClassifierModule``.
        label: the wanted class of the head, by name or number, or the column of the prompts that holds it.
        weight: of the attribute's loss (pplm), or of its words' bias (bias); above 0.
        policy: a word of several tokens is left out (``single``), or is replaced by its ``first_token``.
        cases: add the capitalised and upper-case forms of the words.
        tuned: accept a steered model that was fine-tuned from the one that the head was trained for.
    """

    bag: str | list[str] | dict[str, float] | None = None
    column: str | None = None
    head: str | None = None
    label: int | str = 0
    weight: float = 1.0
    policy: BagPolicy = "single"
    cases: bool = False
    tuned: bool = False

    def __post_init__(self) -> None:
        given = [name for name in ("bag", "column", "head") if getattr(self, name) is not None]
        if len(given) != 1:
            raise UserError(
                "model.attributes: each entry needs exactly one of bag, column and head; this one has "
                f"{' and '.join(given) or 'none'}"
            )
        if not 0 < self.weight < math.inf:  # written so that nan is refused too
            raise UserError(f"model.attributes: weight={self.weight} must be above 0")


@dataclass(frozen=True)
class ActivationSettings:
    """Activation addition: mean residuals of one class's texts minus those of the others, from the view ``labelled``.

    Args:
        layer: block after which the direction is added, from 0.
        coefficient: factor of the direction.
        label: the class, or the column of the prompts that holds it.
        texts: largest number of texts of each class.
    """

    layer: int = 0
    coefficient: float = 0.5
    label: int | str = 0
    texts: int = 64

    def __post_init__(self) -> None:
        check_least("model.activation.layer", self.layer, 0)
        check_least("model.activation.texts", self.texts, 1)


@dataclass(frozen=True)
class ExpertSettings:
    """Expert logits (DExperts); models are hub names, folders or checkpoints, of the steered model's vocabulary.

    Args:
        expert: a model of the wanted text; required by the method ``experts``.
        anti_expert: a model of the unwanted text; default: the steered model itself.
        alpha: factor of the difference of their logits.
    """

    expert: str | None = None
    anti_expert: str | None = None
    alpha: float = 0.5


@dataclass(frozen=True)
class BestOfSettings:
    """Best of n samples of each prompt.

    Args:
        samples: n; 1 is off.
        rank: ``attribute`` (share of a text's tokens in its bags, and log-probability of its classes), or the name of
            one of the task's rewards.
        min_distinct: smallest mean share of distinct 1-, 2- and 3-grams; texts below it rank last.
    """

    samples: int = 1
    rank: str = "attribute"
    min_distinct: float = 0.0

    def __post_init__(self) -> None:
        check_least("model.best_of.samples", self.samples, 1)
        if not 0 <= self.min_distinct <= 1:
            raise UserError(f"model.best_of.min_distinct={self.min_distinct} must be from 0 to 1")


@dataclass(frozen=True)
class SearchSettings:
    """The texts on which ``pplm.stepsize: auto`` is calibrated.

    Args:
        prompts: number of prompts, the first ones.
        new_tokens: longest completion of each.
    """

    prompts: int = 8
    new_tokens: int = 16

    def __post_init__(self) -> None:
        check_least("model.search.prompts", self.prompts, 1)
        check_least("model.search.new_tokens", self.new_tokens, 2)
