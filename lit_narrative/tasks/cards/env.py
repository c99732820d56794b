"""The game as an environment of text, with the calls of gymnasium (without importing it)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from random import Random
from typing import Any

from lit_narrative.errors import UserError, check_least
from lit_narrative.tasks.cards.answers import PARTS, Judgement, judge
from lit_narrative.tasks.cards.dealing import MIXTURE, Deal, deals, draw_hand, kind_of
from lit_narrative.tasks.cards.families import find_rule, sentences_of
from lit_narrative.tasks.cards.game import SETS, CardGame, check_mixture, check_names
from lit_narrative.tasks.cards.prompts import MISSING, WRONG, example
from lit_narrative.tasks.cards.rules import COLORS, Card
from lit_narrative.views import Rollout, plain_prompt

WEIGHTS = {"correct": 1.0, "format": 0.1, "process": 0.0, "length": 0.0}
"""Of the parts of the reward, where none are given."""


class CardGameEnv:
    """One hand an episode: the observation is a prompt, the action is what the policy writes after it.

    The calls are those of gymnasium, so that its wrappers and loops work with it::

        env = CardGameEnv(max_revisions=2)
        prompt, info = env.reset(seed=0)
        prompt, reward, terminated, truncated, info = env.step(" 3 -2 ; -2")

    Args:
        game: what is played.
        mix: weights of the kinds that ``reset`` deals from.
        held_out: kinds that it never deals.
        weights: of the parts of the reward: ``correct``, ``format``, ``process`` (0..1 each) and ``length`` (-1..0).
        max_revisions: answers a hand. With more than one, a wrong answer is answered by a line of feedback, and the
            next observation is the whole text so far; the reward is that of each answer.

    Raises:
        UserError: a name is unknown, a kind is both mixed in and held out, or a number is out of range.
    """

    def __init__(
        self,
        game: CardGame | None = None,
        mix: Mapping[str, float] | None = None,
        held_out: Sequence[str] = ("length_shift", "classification"),
        weights: Mapping[str, float] | None = None,
        max_revisions: int = 1,
    ) -> None:
        self.game, self.held_out, self.max_revisions = game or CardGame(), tuple(held_out), max_revisions
        self.mix = check_mixture(mix or {"id": 1.0}, held_out)
        check_names("weights", weights or {}, PARTS)
        check_least("max_revisions", max_revisions, 1)
        self.weights = {**WEIGHTS, **weights} if weights else WEIGHTS
        self._source = _Source(self.game, self.mix, self.held_out)
        self._columns: Mapping[str, Any] | None = None

    def reset(self, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: of this and all later hands; None continues the present stream.
            options: ``split``: the set to deal from, in place of the mixture; or ``rule``: the rule's name; with it,
                ``cards``: the hand, as pairs of colour and value.

        Returns:
            The prompt; and all that is known of the hand, the right answer as ``expected`` with it.

        Raises:
            UserError: an option is unknown, or asks for what is held out.
        """
        if seed is not None:
            self._source = _Source(self.game, self.mix, self.held_out, seed)
        row = example(self._source.deal(options or {}), self.game.scratchpad, self._source.game.seed)
        self._columns, self._text, self._answers = row.meta, plain_prompt(row.prompt), 0
        return self._text, {**row.meta, "expected": row.meta["answer"]}

    def step(self, text: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Judge an answer.

        Args:
            text: what was written after the prompt.

        Returns:
            The text so far, with feedback if there is another try; the reward; whether the episode has ended, by a
            right answer or the only one allowed; whether it was cut off, after ``max_revisions`` wrong ones; and what
            was made of the answer.

        Raises:
            RuntimeError: the episode is over.
        """
        if self._columns is None:
            raise RuntimeError("the episode is over; call reset() first")
        judgement, columns = judge(text, self._columns), self._columns
        self._answers += 1
        parts = {name: part(judgement) for name, part in PARTS.items()}
        terminated = judgement.correct or self.max_revisions == 1
        # gymnasium's sense: terminated is an end that the game knows, truncated one that a limit sets.
        truncated = not terminated and self._answers >= self.max_revisions
        self._text += text
        if terminated or truncated:
            self._columns = None
        else:
            self._text += _feedback(judgement)
        info = {
            "parsed": judgement.answer,
            "valid": judgement.valid,
            "correct": judgement.correct,
            "expected": judgement.expected,
            "rule": columns["rule_name"],
            "split": columns["split"],
            "running_totals": columns["running_totals"],
            "trace": list(judgement.trace),
            "rewards": parts,
        }
        # Each answer is rewarded by itself; feedback earns and costs nothing.
        reward = sum(self.weights[name] * value for name, value in parts.items())
        return self._text, reward, terminated, truncated, info


def revise(rollouts: Sequence[Rollout]) -> list[str | None]:
    """The feedback on answers to prompts of the game, for turns of reinforcement learning; None where one is right."""
    judgements = [judge(rollout.text, rollout.columns) for rollout in rollouts]
    return [None if judgement.correct else _feedback(judgement) for judgement in judgements]


def _feedback(judgement: Judgement) -> str:
    return WRONG if judgement.valid else MISSING


class _Source:
    """Where hands come from: a stream for the mixture, one for every set asked for, and one for rules by name."""

    def __init__(
        self, game: CardGame, mix: Mapping[str, float], held_out: Sequence[str], seed: int | None = None
    ) -> None:
        self.game = game if seed is None else replace(game, seed=seed)
        self.held_out = held_out
        # Generators: each set is dealt hand by hand, as often as it is asked for.
        self.streams = {MIXTURE: deals(self.game, MIXTURE, mix)}
        self.rng = Random(f"{self.game.seed}/rules")
        self.numbers = count()

    def deal(self, options: Mapping[str, Any]) -> Deal:
        """The next hand as the options ask for it."""
        check_names("options", options, ("rule", "cards", "split"))
        if "rule" in options:
            return self._given(options)
        if len(options) > ("split" in options):
            raise UserError("options: cards need a rule; give its name as options['rule']")
        name = options.get("split", MIXTURE)
        if name != MIXTURE:
            check_names("options['split']", [name], SETS)
            self._check(kind_of(name))
        # A set that is asked for again continues with new hands.
        return next(self.streams.setdefault(name, deals(self.game, name)))

    def _given(self, options: Mapping[str, Any]) -> Deal:
        rule = find_rule(options["rule"])
        owners = [kind for kind in ("new_colors", "compositional", "classification") if rule in self.game.pool(kind)]
        for kind in owners:
            self._check(kind)
        if "split" in options:
            raise UserError("options: give a rule or a split, not both")
        length = self.rng.randint(*self.game.lengths)
        cards = options.get("cards")
        hand = draw_hand(self.rng, rule, length, self.game.largest_value) if cards is None else _read(cards)
        return Deal(rule, hand, "given", sentences_of(rule.name).canonical, "canonical", "given", next(self.numbers))

    def _check(self, kind: str) -> None:
        if kind in self.held_out:
            raise UserError(f"options: '{kind}' is held out; leave it out of held_out to be dealt such hands")


def _read(cards: Sequence[Any]) -> tuple[Card, ...]:
    """Cards that a person gave.

    Raises:
        UserError: one is not a card.
    """
    hand = []
    for card in cards:
        match card:
            # Class patterns check the types too: a value of "3" or 3.0 is refused.
            case (str(color), int(value)) if color in COLORS:
                hand.append(Card(color, value))
            case _:
                colors = ", ".join(COLORS)
                raise UserError(f"options['cards']: {card!r} is not a pair of a colour ({colors}) and a number")
    return tuple(hand)
