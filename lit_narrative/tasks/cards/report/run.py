"""The content of the folder of a cards run as typed values. Shares lie in [0, 1]."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lit_narrative.report.run_folder import RunFolder

BASE = "sft"
"""The policy that the arms start from and are compared with."""
REFERENCE_SPLIT = "id_test"
"""The set that is in distribution."""

SETS: Mapping[str, tuple[str, str]] = {
    "id_test": ("Known rules", "the rules, wordings and lengths of training, with new hands"),
    "paraphrase_mix": ("Mixture's rewordings", "known rules in the words that reinforcement on rewordings uses"),
    "paraphrase": ("Unseen rewordings", "known rules in words that no training uses"),
    "new_colors": ("Other colours", "a known sentence in which other colours count"),
    "compositional": ("Colour and value", "rules that ask for a colour and a value at once"),
    "length_shift": ("Longer hands", "known rules on more cards than any in training"),
    "classification": ("Labels", "the answer is one of two words, no number"),
}
"""Title and meaning of each set, in the order of the page."""


@dataclass(frozen=True, slots=True)
class Scores:
    """A policy on one set.

    Attributes:
        n: answers.
        accuracy: share that is right.
        interval: its 95 % Wilson interval.
        majority: share of the commonest right answer, which is what giving it always would get.
        lift: (accuracy - majority) / (1 - majority); None where all right answers are the same.
        format_validity: share that holds an answer at all.
        trace_exact: share of scratchpads right to the last total; None without scratchpads.
        accuracy_nonzero: accuracy where the right answer is not 0; None if it always is.
        answered_zero: share of answers 0.
        calibration_error: expected calibration error of the policy's own probability.
        substitution: by rule, the share of answers that this rule would have given on the same cards.
    """

    n: int
    accuracy: float
    interval: tuple[float, float]
    majority: float
    lift: float | None
    format_validity: float
    trace_exact: float | None
    accuracy_nonzero: float | None
    answered_zero: float
    calibration_error: float | None
    substitution: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer; ``answer`` is empty where ``text`` holds none."""

    prompt: str
    text: str
    answer: str
    expected: str
    correct: bool


@dataclass(frozen=True, slots=True)
class Training:
    """The job that made a policy.

    Attributes:
        module: name of its class.
        config: its settings as YAML text.
        mix: weights of the kinds that it trained on.
        steps: of the optimizer; None where nothing was logged.
        sequences: learned from, repeats counted; None where the settings do not tell.
        seconds: that it took; None where the jobs were started by hand.
    """

    module: str
    config: str
    mix: Mapping[str, float]
    steps: int | None
    sequences: int | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Policy:
    """A tested policy.

    Attributes:
        name: of its test job, without ``test_``.
        where: the file of its figures.
        scores: by set.
        answers: by set, in the order of the prompts.
        mix: weights of the kinds that it was trained on, or, if its training is not here, that its test names.
        held_out: kinds that its data keep out of every mixture.
        training: the job that made it, if that is here.
    """

    name: str
    where: Path
    scores: Mapping[str, Scores]
    answers: Mapping[str, tuple[Answer, ...]]
    mix: Mapping[str, float]
    held_out: tuple[str, ...]
    training: Training | None


@dataclass(frozen=True, slots=True)
class Circuits:
    """A circuit analysis.

    Attributes:
        name: of its job, without ``circuits_``.
        figures: what it logged.
        errors: analyses that could not be done, and why.
        weak: splits that the model hardly answers by the rule.
        pages: HTML files of its job, as paths from the run's folder.
    """

    name: str
    figures: Mapping[str, float]
    errors: Mapping[str, str]
    weak: frozenset[str]
    pages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SeedRun:
    """The jobs of one seed: the tested policies by name, the base first, and the circuit analyses."""

    name: str
    policies: Mapping[str, Policy]
    circuits: tuple[Circuits, ...]


@dataclass(frozen=True, slots=True)
class CardsRun:
    """A run of the recipe ``cards``, or of one like it.

    Attributes:
        folder: that the recipe wrote.
        seeds: at least one.
    """

    folder: RunFolder
    seeds: tuple[SeedRun, ...]

    @property
    def policies(self) -> tuple[str, ...]:
        """Names of the tested policies, the base first."""
        return tuple(dict.fromkeys(name for seed in self.seeds for name in seed.policies))

    @property
    def arms(self) -> tuple[str, ...]:
        """The policies that are compared with the base."""
        return tuple(name for name in self.policies if name != BASE)

    @property
    def sets(self) -> tuple[str, ...]:
        """Names of the measured sets, in the order of the page."""
        names = {name for seed in self.seeds for policy in seed.policies.values() for name in policy.scores}
        # Sets of other names come last, sorted, since a Python set has no order to keep.
        return (*(name for name in SETS if name in names), *sorted(names - SETS.keys()))

    def of(self, policy: str) -> list[tuple[str, Policy]]:
        """A policy under each seed that has it."""
        return [(seed.name, seed.policies[policy]) for seed in self.seeds if policy in seed.policies]

    def scores(self, policy: str, split: str) -> list[tuple[str, Scores]]:
        """A policy's scores on a set under each seed that has them."""
        return [(seed, one.scores[split]) for seed, one in self.of(policy) if split in one.scores]


def title(split: str) -> str:
    """What a set is called on the page."""
    return SETS.get(split, (split, ""))[0]


def trained(policy: Policy, split: str) -> str:
    """How a set relates to what a policy was trained on, in words."""
    if split == REFERENCE_SPLIT:
        return "in distribution"
    # The mixture's rewordings are of the kind `paraphrase`, whose own set keeps other words unseen.
    kind = "paraphrase" if split == "paraphrase_mix" else split
    if not policy.mix.get(kind):
        return "never trained on"
    return "trained on other words" if split == "paraphrase" else "trained by RL"
