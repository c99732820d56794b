"""The card game as data: one rule game, several ways to leave its distribution."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any, Literal

import torch
from torchmetrics.functional.classification import binary_calibration_error

from lit_narrative.datamodules.activations import ActivationSettings, SplitActivations
from lit_narrative.datamodules.base import Answered, ExamplePrompts, Split, TaskDataModule
from lit_narrative.errors import check_least
from lit_narrative.tasks.cards.answers import REWARDS, Judgement, judge, parse
from lit_narrative.tasks.cards.contrasts import contrast_pairs, question
from lit_narrative.tasks.cards.dealing import MIXTURE, Bucket, Deal, deal, deals
from lit_narrative.tasks.cards.env import revise
from lit_narrative.tasks.cards.game import KINDS, SETS, TEST_SETS, CardGame, check_mixture, check_names
from lit_narrative.tasks.cards.prompts import example, prompt_text, vocabulary_texts
from lit_narrative.tasks.cards.scores import gaps, mean_gap, set_scores
from lit_narrative.views import Activation, ContrastPair, Example, Labelled, Prompt, Rollout, Verdict

Label = Literal["rule", "kind", "paraphrased", "sign"]
HELD_OUT = ("length_shift", "classification")
LOGGED = ("accuracy", "lift", "format_validity", "trace_exact", "gold_logprob", "calibration_error")
"""Scores of a set that are logged; all of them are in the record of the evaluation."""


class CardsData(TaskDataModule):
    """Views ``examples`` (worked answers), ``prompts`` (with what judges them), ``labelled`` and ``activations``.

    Training examples are in distribution; training prompts, which reinforcement learns on, are a mixture of kinds. No
    hand of cards is in training and in a test. Beside the three splits there are sets to measure on by name, one for
    each kind of shift: see `named_prompts`.

    Args:
        game: what is played.
        train_size: examples to imitate, 1 or more (as the other sizes).
        prompt_size: training prompts of the mixture.
        val_size: validation rows, in distribution.
        test_size: rows of each test set.
        test_sizes: the same for single sets.
        mix: weights of the kinds in training prompts; default: ``id`` alone.
        held_out: kinds that no training prompt may be of.
        test_set: the test set that ``test`` and ``predict`` read.
        label: what the ``labelled`` view tells: the rule, the kind, whether the rule is reworded, or the sign of the
            total. It covers all kinds equally.
        activations: of which model, and where.
        **kwargs: of `TaskDataModule`.

    Raises:
        UserError: a size is below 1, a name is unknown, or a kind is both mixed in and held out.
    """

    rewards = REWARDS
    environments = {"revise": lambda task: revise}  # noqa: RUF012 (read only)

    def __init__(
        self,
        game: CardGame = CardGame(),  # noqa: B008 (the command line shows the default's fields)
        train_size: int = 40_000,
        prompt_size: int = 12_000,
        val_size: int = 300,
        test_size: int = 500,
        test_sizes: dict[str, int] | None = None,
        mix: dict[str, float] | None = None,
        held_out: Sequence[str] = HELD_OUT,
        test_set: str = "id_test",
        label: Label = "rule",
        activations: ActivationSettings = ActivationSettings(),  # noqa: B008
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_names("data.test_set", [test_set], TEST_SETS)
        check_names("data.test_sizes", test_sizes or {}, TEST_SETS)
        sizes = {"train_size": train_size, "prompt_size": prompt_size, "val_size": val_size, "test_size": test_size}
        sizes |= {f"test_sizes.{name}": size for name, size in (test_sizes or {}).items()}
        for name, size in sizes.items():
            check_least(f"data.{name}", size, 1)
        self.game, self.test_set, self.label, self.held_out = game, test_set, label, tuple(held_out)
        self.mix = check_mixture(mix or {"id": 1.0}, self.held_out)
        self.sizes = {"train": train_size, MIXTURE: prompt_size, "val": val_size}
        self.sizes |= {name: (test_sizes or {}).get(name, test_size) for name in TEST_SETS}
        self._dealt: dict[str, list[Deal]] = {}
        self._activations = SplitActivations(self, activations, self.questions)

    # --- views ------------------------------------------------------------------------------------------------------

    def examples(self, split: Split) -> Sequence[Example]:
        """Prompts with worked answers to imitate, in distribution but for a ``test_set`` that is not."""
        return self.named_examples(self.test_set if split == "test" else split)

    def prompts(self, split: Split) -> Sequence[Prompt]:
        """Prompts for the policy, for training those of the mixture; ``reference`` is the worked answer."""
        name = {"train": MIXTURE, "val": "val", "test": self.test_set}[split]
        return ExamplePrompts(self.named_examples(name))

    def labelled(self, split: Split) -> list[Labelled]:
        """Prompts of all kinds with the class that ``label`` asks for; `label_names` says what the numbers mean."""
        size = self.sizes[self.test_set if split == "test" else split]
        bucket: Bucket = split
        # Not the sets of `named_deals`, which hold one kind each: a class that a set lacks could not be learned.
        dealt = islice(deals(self.game, f"labelled_{split}", dict.fromkeys(KINDS, 1.0), bucket), size)
        names = self.label_names
        return [Labelled(prompt_text(row.sentence, row.cards), names.index(self._label(row))) for row in dealt]

    def activations(self, split: Split) -> Sequence[Activation]:
        """What a model holds at the tokens of the examples; read once.

        Raises:
            UserError: no model is named, or it cannot be read as the settings say.
        """
        return self._activations.of(split)

    @property
    def label_names(self) -> tuple[str, ...]:
        """The classes of the ``labelled`` view, in order of their numbers."""
        match self.label:
            case "rule":
                return tuple(dict.fromkeys(rule.name for kind in KINDS for rule in self.game.pool(kind)))
            case "kind":
                return KINDS
            case "paraphrased":
                return ("canonical", "reworded")
            case "sign":
                return ("negative", "zero", "positive")

    def _label(self, row: Deal) -> str:
        match self.label:
            case "rule":
                return row.rule.name
            case "kind":
                return row.kind
            case "paraphrased":
                return "reworded" if row.paraphrased else "canonical"
            case "sign":
                total = row.rule.total(row.cards)
                return "zero" if total == 0 else "positive" if total > 0 else "negative"

    # --- sets by name -----------------------------------------------------------------------------------------------

    def named_deals(self, name: str) -> list[Deal]:
        """The hands of a set: ``train``, ``val``, a test set, or ``mixture``, the training prompts.

        Raises:
            UserError: there is no such set.
        """
        check_names("cards", [name], (*SETS, MIXTURE))
        if name not in self._dealt:
            self._dealt[name] = deal(self.game, name, self.sizes[name], self.mix if name == MIXTURE else None)
        return self._dealt[name]

    def named_examples(self, name: str) -> Sequence[Example]:
        """The examples of a set; see `named_deals`."""
        return _Examples(self.named_deals(name), self.game)

    @property
    def test_sets(self) -> Sequence[str]:
        """The sets to measure on: in distribution, and one for each kind of shift."""
        return TEST_SETS

    def named_prompts(self, name: str) -> Sequence[Prompt]:
        """The prompts of a set; see `named_deals`."""
        return self.shown(ExamplePrompts(self.named_examples(name)), name)

    def contrasts(self, split: str) -> Iterable[ContrastPair]:
        """Pairs that differ in a card or in the rule, of a set as `named_deals` knows it; ``test`` is the test set."""
        return contrast_pairs(self.named_deals(self.test_set if split == "test" else split), self.game)

    def questions(self, split: str) -> Sequence[Example]:
        """Examples of a set, with named positions and what to probe for."""
        return _Questions(self.named_deals(self.test_set if split == "test" else split), self.game)

    def tokenizer_texts(self) -> Iterable[str]:
        """Every word of the game: a word-level tokenizer then knows any pool of rules, reworded or not."""
        return vocabulary_texts(self.game)

    # --- rewards and verifiers --------------------------------------------------------------------------------------

    def measure(self, name: str, answers: Sequence[Answered]) -> dict[str, Any]:
        """`set_scores` of answers, with the mean ``gold_logprob`` and the ``calibration_error``.

        The latter is the expected calibration error of the completion's probability as a forecast of its answer being
        right, over 10 bins (Guo et al. 2017, equation 3).
        """
        columns = [answer.rollout.columns for answer in answers]
        judgements = [judge(answer.rollout.text, answer.rollout.columns) for answer in answers]
        # A probability summed in float32 may lie a rounding error above 1, which has no bin.
        confidence = torch.tensor([answer.confidence for answer in answers]).clamp(0, 1)
        correct = torch.tensor([judgement.correct for judgement in judgements]).long()
        rules = [rule.name for rule in self.game.pool("id")]
        return set_scores(judgements, columns, rules) | {
            "gold_logprob": sum(answer.gold or 0.0 for answer in answers) / len(answers),
            "calibration_error": float(binary_calibration_error(confidence, correct, n_bins=10)),
        }

    def set_metrics(self, scores: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
        """The scores that are `LOGGED` of each set, the gaps to ``id_test`` and their mean."""
        shifts = _gaps(scores)
        metrics = {f"{name}/{key}": values[key] for name, values in scores.items() for key in LOGGED}
        return metrics | {f"{name}/gap": gap for name, gap in shifts.items()} | {"mean_gap": mean_gap(shifts)}

    def set_summary(self, scores: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """The gaps to ``id_test``, and the settings of the game."""
        shifts = _gaps(scores)
        config = {"game": asdict(self.game), "mix": self.mix, "held_out": list(self.held_out)}
        return {"gaps": shifts, "mean_gap": mean_gap(shifts), "config": config}

    def answer_row(self, answer: Answered) -> dict[str, Any]:
        """An answer with what was right."""
        judgement = judge(answer.rollout.text, answer.rollout.columns)
        return {
            "rule": answer.rollout.columns["rule_name"],
            "prompt": answer.rollout.prompt,
            "text": answer.rollout.text,
            "answer": judgement.answer,
            "expected": judgement.expected,
            "correct": judgement.correct,
            "confidence": answer.confidence,
            "gold_logprob": answer.gold,
        }

    def verify(self, rollouts: Sequence[Rollout]) -> list[Verdict]:
        """Whether each answer is right, with what was wrong on the way to it."""
        return [_verdict(judge(rollout.text, rollout.columns), rollout) for rollout in rollouts]

    def unique_shares(self, texts: Sequence[str]) -> dict[str, float]:
        """Distinct texts, and distinct numbers answered, among the texts that answer one."""
        answers = [answer for text in texts if (answer := parse(text).answer) is not None]
        return super().unique_shares(texts) | {"unique_answers": len(set(answers)) / max(len(answers), 1)}


def _gaps(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    return gaps({name: values["accuracy"] for name, values in scores.items()})


def _verdict(judgement: Judgement, rollout: Rollout) -> Verdict:
    components = {"correct": float(judgement.correct), "format": float(judgement.valid)}
    if judgement.trace_exact is not None:
        components |= {"process": judgement.process, "trace_exact": float(judgement.trace_exact)}
    issues = tuple(_issues(judgement, rollout.columns["running_totals"]))
    return Verdict(float(judgement.correct), components, judgement.valid, issues)


def _issues(judgement: Judgement, totals: Sequence[int]) -> Iterable[dict[str, str]]:
    """What is wrong: the first running total that is, and the answer."""
    if judgement.trace_exact is False:
        pairs = zip(judgement.trace, totals, strict=False)
        # Later totals follow from the first wrong one, so that alone is named.
        wrong = next((number for number, (got, right) in enumerate(pairs) if got != right), None)
        message = f"{len(judgement.trace)} running totals for {len(totals)} cards"
        if wrong is not None:
            message = f"{judgement.trace[wrong]} where {totals[wrong]} is right"
        yield {"path": f"trace[{wrong or 0}]", "message": message, "severity": "warning"}
    if not judgement.correct:
        message = f"answered {judgement.answer}" if judgement.valid else "no answer"
        yield {"path": "answer", "message": f"{message}, {judgement.expected} is right", "severity": "error"}


class _Examples(Sequence[Example]):
    """Deals as examples, worked out when asked for."""

    def __init__(self, dealt: Sequence[Deal], game: CardGame) -> None:
        self.dealt, self.game = dealt, game

    def __len__(self) -> int:
        return len(self.dealt)

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]
        return example(self.dealt[index], self.game.scratchpad, self.game.seed)


class _Questions(_Examples):
    """Deals as examples with named positions and what to probe for."""

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]
        return question(self.dealt[index], self.game)
