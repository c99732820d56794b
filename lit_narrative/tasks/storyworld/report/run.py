"""The content of a run's folder as typed values. Shares and scores lie in [0, 1] unless a field says otherwise."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lit_narrative.report.run_folder import Curve, RunFolder


@dataclass(frozen=True, slots=True)
class Issue:
    """One fault that the verifiers see in a text.

    Attributes:
        path: JSON path in the text.
        message: what is wrong there.
        severity: ``error`` or a milder word.
    """

    path: str
    message: str
    severity: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One generated text with its score; ``finished`` says whether the policy itself ended it."""

    prompt: str
    text: str
    reward: float
    components: Mapping[str, float] = field(default_factory=dict)
    issues: tuple[Issue, ...] = ()
    finished: bool = True


@dataclass(frozen=True, slots=True)
class Soundness:
    """How many of a set of texts work as stories, and how various those that are worlds are.

    Attributes:
        n: number of texts.
        sound: share that is sound: no error, two endings met in play, no dead end, a live gate.
        playable: share that is so but for the gate.
        funnel: share that passes each stage and those before it, in order.
        effective_shapes: effective number of shapes, 1 to the number of worlds.
        encounters: mean number a world.
        adherence: mean share of what the prompts ask for; None where they ask for nothing.
    """

    n: int
    sound: float
    playable: float
    funnel: Mapping[str, float]
    effective_shapes: float
    encounters: float
    adherence: float | None


@dataclass(frozen=True, slots=True)
class Level:
    """Means over a set of texts: the strict total, the lenient one of the original system, the strict components.

    ``soundness`` is None of runs of earlier releases, which did not measure it.
    """

    reward: float
    original_total: float | None
    components: Mapping[str, float]
    soundness: Soundness | None = None


@dataclass(frozen=True, slots=True)
class TurnOutcome:
    """What texts are worth after a turn; one that the environment did not answer stands as it is.

    Attributes:
        written: share of the texts that have this turn.
        sound: share of sound worlds.
        sound_ci: its 95 % interval.
        gain: change of that share since the first turn, over the same texts; None of the first.
        gain_ci: its paired 95 % interval.
    """

    written: float
    sound: float
    sound_ci: tuple[float, float]
    gain: float | None = None
    gain_ci: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """A policy's figures on the held-out prompts.

    Attributes:
        n: number of samples.
        level: means of the scores over all samples; a text that does not parse counts as 0.
        reward_ci: 95 % interval of the mean strict total.
        valid_json: share of samples that parse.
        unique: share of distinct texts.
        unique_names: the same with names removed.
        unique_skeleton: the same with names, texts and numbers removed.
        corpus: the same means over the corpus that SFT imitates.
        seed: of the sampling.
        turns: figures after each turn, where the policy takes turns.
    """

    n: int
    level: Level
    reward_ci: tuple[float, float]
    valid_json: float
    unique: float
    unique_names: float | None
    unique_skeleton: float | None
    corpus: Level | None
    seed: int | None
    turns: tuple[TurnOutcome, ...] = ()


@dataclass(frozen=True, slots=True)
class HeldOutTest:
    """A test job: its figures and, where they were kept, its samples."""

    name: str
    outcome: Outcome
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class TopState:
    """A state that excites a feature: where it is, and which options are open (``closed``: locked) there."""

    activation: float
    encounter: str
    text: str
    open: tuple[str, ...]
    closed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Feature:
    """One SAE latent against the affordances.

    Attributes:
        latent: its index.
        density: share of states in which it is active.
        correlation: Pearson, with the number of open options, in [-1, 1].
        conditional_mi: bits, bias-corrected, given the encounter.
        p: of the permutation test.
        q: p after correction for testing many features.
        significant: whether q is below the level of the analysis.
        top_states: the states that excite it most, strongest first.
    """

    latent: int
    density: float | None
    correlation: float | None
    conditional_mi: float | None
    p: float | None
    q: float | None
    significant: bool
    top_states: tuple[TopState, ...]


@dataclass(frozen=True, slots=True)
class Cycle:
    """One refresh of the SAE.

    Attributes:
        number: of the cycle, from 0.
        metrics: ``explained_variance``, ``explained_variance_heldout``, ``l0``, ``dead_fraction``, ``mse``; missing
            where not measured.
        density: one share per latent.
        readout: area under the ROC curve of a linear read-out from ``sae``, ``raw`` and ``permuted``, and of controls
            ``random_encoder`` and ``random_decoder``.
        features: the most telling ones, or all.
        significant: number of features that passed the test, listed or not.
        targets: what the features were tested against, in words.
        matched_cosine: mean decoder cosine with the SAE of the cycle before; None for the first.
        view: ``states`` of the games, or ``activations`` of the policy.
    """

    number: int
    metrics: Mapping[str, float]
    density: tuple[float, ...]
    readout: Mapping[str, float]
    features: tuple[Feature, ...]
    significant: int
    targets: str
    matched_cosine: float | None
    view: str = "states"


@dataclass(frozen=True, slots=True)
class TrainingSample:
    """One completion that training learned from.

    Attributes:
        step: the optimizer step.
        prompt: what it continues.
        text: the completion.
        reward: weighted sum of its rewards, in their own units; None if no reward could score it.
        rewards: each reward by name; missing where it could not score.
        advantage: what the sum was worth beside those of the same prompt; None if it was not learned from.
        finished: whether the policy itself ended it.
    """

    step: int
    prompt: str
    text: str
    reward: float | None
    rewards: Mapping[str, float]
    advantage: float | None
    finished: bool


@dataclass(frozen=True, slots=True)
class Job:
    """A training job.

    Attributes:
        name: of its folder.
        curves: by metric name, ``epoch`` among them.
        config: its settings as YAML text.
        cycles: the SAEs it has refreshed.
        rollouts: the latest table of completions that it learned from.
    """

    name: str
    curves: Mapping[str, Curve]
    config: str | None
    cycles: tuple[Cycle, ...]
    rollouts: tuple[TrainingSample, ...] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """The jobs of one seed.

    Attributes:
        folder: that they lie in.
        before: the held-out test of the policy that RL starts from.
        after: the same of the policy that it ends with.
        jobs: training jobs by name.
    """

    folder: RunFolder
    before: HeldOutTest
    after: HeldOutTest
    jobs: Mapping[str, Job]

    @property
    def corpus(self) -> Level | None:
        """The corpus that SFT imitates, if a test has measured it."""
        return self.after.outcome.corpus or self.before.outcome.corpus
