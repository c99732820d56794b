"""Interactive storyworlds as data: from the generator, or read from files."""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from statistics import fmean
from typing import Any, Literal, get_args

import numpy as np

from lit_narrative.datamodules.base import ExamplePrompts, NumberedPrompts, Split, TaskDataModule
from lit_narrative.datamodules.storyworld_rows import Combined, CompactWorlds, Enriched, Generated, Plays, WithGrammar
from lit_narrative.errors import UserError, check_choice, check_least
from lit_narrative.lm.passages import Passages, PassageSettings
from lit_narrative.sae.quality import FeatureQualitySettings
from lit_narrative.tasks.storyworld.adherence import adherence
from lit_narrative.tasks.storyworld.custom import Dealt, custom_examples, custom_worlds
from lit_narrative.tasks.storyworld.cutting import Cut
from lit_narrative.tasks.storyworld.formats.parse import as_json
from lit_narrative.tasks.storyworld.formats.simple import KNOWN_KEYS
from lit_narrative.tasks.storyworld.generator import Skew
from lit_narrative.tasks.storyworld.grammar import prompt_grammar
from lit_narrative.tasks.storyworld.prompt_space import PromptSpace
from lit_narrative.tasks.storyworld.repair import RepairEnvironment, Repairs, RepairSettings
from lit_narrative.tasks.storyworld.rewards import REWARDS, RewardSettings, Scorer
from lit_narrative.tasks.storyworld.similarity import unique_shares
from lit_narrative.tasks.storyworld.simulator.play import Play
from lit_narrative.tasks.storyworld.simulator.play import plays as play_world
from lit_narrative.tasks.storyworld.simulator.playing import PlayEnvironment, PlaySettings, play_verdict
from lit_narrative.tasks.storyworld.states import StateLayout, states
from lit_narrative.tasks.storyworld.themes import SPLITS
from lit_narrative.tasks.storyworld.verifiers.base import DEFAULT_WEIGHTS, VerifierConfig
from lit_narrative.tasks.storyworld.verifiers.soundness import funnel
from lit_narrative.tasks.storyworld.world import World
from lit_narrative.tasks.storyworld.world_files import CustomWorld, read_worlds
from lit_narrative.views import Example, Prompt, Rollout, State, Verdict, prompt_text

NAMED_WORLDS = 3_000
"""Worlds that names for the tokenizer are looked for in."""
IN_EVERY = 0.9
"""Share of the texts from which on a word belongs to the format."""
FEW_WORLDS = 20
"""Below so many texts a name may be in all of them: only the words of keys belong to the format then."""
_WORD = re.compile(r"[^\W\d_]+")
_IDENTIFIER = re.compile(r'"(\w+)"')
_FORMAT = {word for key in (*KNOWN_KEYS, "initial", "min", "max", "comparison") for word in _WORD.findall(key)}

logger = logging.getLogger(__name__)

WorldForm = Literal["json", "compact"]
"""How the worlds of examples and prompts are written; what a policy writes is read in either form."""
StateSplit = Literal["worlds", "plays"]
"""What the states of two splits do not share: worlds, or plays of the same worlds."""
MOST_LOOKED_AT = 256
"""Training worlds that are looked at before it is said that none of them is sound."""


class StoryworldData(TaskDataModule):
    """Views ``examples`` (prompt, world as JSON), ``prompts`` and ``states`` (moments of plays).

    Args:
        worlds: a folder of ``*.json`` of any format, or a JSONL file, with custom worlds, three or more; default:
            worlds from the generator. About a tenth is held out to validate on, and a tenth to test on. A file of a
            folder that cannot be read is named, and the others go on. Examples are worlds of the simple format as they
            are, and pieces of the others.
        val_worlds: custom worlds to validate on, in place of that tenth.
        test_worlds: custom worlds to test on, likewise.
        train_size: generated worlds to train on, 1 or more (as the other sizes).
        val_size: held-out worlds, of themes and casts that training never sees.
        test_size: likewise, disjoint from those.
        state_worlds: worlds whose plays make the ``states`` view, 1 or more.
        plays_per_world: plays of each, 1 or more, of ``verifiers.max_steps`` steps at most.
        state_split: what keeps the states of splits apart: ``worlds``, or, where a few large worlds are all there is,
            ``plays`` of all of ``worlds``.
        state_slots: slots for variables in a state's vector, 1 or more; two variables of a world in one slot are
            averaged.
        cut: the size of a piece of a custom world that is not of the simple format.
        corpus_seed: of the generated worlds.
        skew: what the generated corpus is rich and poor in.
        prompt_space: prompts of settings, themes, casts and properties in place of the examples'; as many as the sizes
            say, no two alike.
        passages: a corpus whose passages, those nearest to it in meaning, stand above each prompt.
        passages_per_prompt: at most, 1 or more.
        verifiers: minima and weights of the score, and how texts are read.
        feature_quality: how the reward of that name is measured.
        grammar: give each prompt a column ``grammar``, a schema with its cast and its properties, for
            ``model.sampling.grammar=prompt``.
        repair: examples of worlds that are mended, and what the environment ``repair`` says of a world.
        play: prompts are worlds to be played turn by turn, which the environment ``play`` tells; default: worlds to be
            written.
        format: how worlds are written in examples, prompts and few-shot prompts: ``json``, or ``compact``, a line for
            each part, two fifths of the tokens of SmolLM2 (``docs/models.md``). What a policy writes
            is read in either form, and judged as the JSON that it stands for.
        **kwargs: of `TaskDataModule`.

    Raises:
        UserError: a count is below 1, worlds to hold out are named without those to train on, or settings exclude each
            other.
    """

    rewards = REWARDS
    environments = {  # noqa: RUF012 (read only)
        "repair": lambda task: RepairEnvironment(task.scorer(), task.repair or RepairSettings()),
        "play": lambda task: PlayEnvironment(task.play_settings()),
    }
    whole_texts = True

    def __init__(
        self,
        worlds: str | None = None,
        val_worlds: str | None = None,
        test_worlds: str | None = None,
        train_size: int = 12_000,
        val_size: int = 256,
        test_size: int = 512,
        state_worlds: int = 256,
        plays_per_world: int = 4,
        state_split: StateSplit = "worlds",
        state_slots: int = 32,
        cut: Cut = Cut(),  # noqa: B008 (the command line shows the default's fields)
        corpus_seed: int = 0,
        skew: Skew = Skew(),  # noqa: B008
        prompt_space: PromptSpace | None = None,
        passages: PassageSettings | None = None,
        passages_per_prompt: int = 1,
        verifiers: VerifierConfig = VerifierConfig(),  # noqa: B008
        feature_quality: FeatureQualitySettings = FeatureQualitySettings(),  # noqa: B008
        grammar: bool = False,
        repair: RepairSettings | None = None,
        play: PlaySettings | None = None,
        format: WorldForm = "json",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice("data.format", format, get_args(WorldForm))
        for name, given in {"repair": repair is not None, "grammar": grammar}.items():
            if format == "compact" and given:
                raise UserError(f"data.{name} is of worlds in JSON; leave it out, or set data.format=json")
        if play is not None and self.few_shot is not None:
            raise UserError("data.few_shot shows worlds, and with data.play prompts begin plays; leave one of them out")
        self.form = format
        self.worlds, self.corpus_seed, self.skew = worlds, corpus_seed, skew
        held_out = {"val": val_worlds, "test": test_worlds}
        self.held_out = {split: path for split, path in held_out.items() if path is not None}
        if self.held_out and worlds is None:
            raise UserError(f"data.{next(iter(self.held_out))}_worlds stands beside data.worlds, which is not given")
        check_least("data.passages_per_prompt", passages_per_prompt, 1)
        self.prompt_space, self.passages, self.passages_per_prompt = prompt_space, passages, passages_per_prompt
        self._passages: Passages | None = None
        self.verifiers, self.feature_quality, self.grammar = verifiers, feature_quality, grammar
        self.sizes = {"train": train_size, "val": val_size, "test": test_size}
        counts = {f"{split}_size": size for split, size in self.sizes.items()}
        counts |= {"state_worlds": state_worlds, "plays_per_world": plays_per_world, "state_slots": state_slots}
        for name, count in counts.items():
            check_least(f"data.{name}", count, 1)
        check_choice("data.state_split", state_split, get_args(StateSplit))
        self.state_worlds, self.plays_per_world = state_worlds, plays_per_world
        self.state_split, self.state_slots, self.cut = state_split, state_slots, cut
        self._dealt: Dealt | None = None
        self._all: list[CustomWorld] | None = None
        self._custom: dict[Split, list[Example]] = {}
        self.repair, self._repairs, self.play = repair, dict[Split, Repairs](), play
        self._layout: StateLayout | None = None

    # --- views ------------------------------------------------------------------------------------------------------

    def examples(self, split: Split) -> Sequence[Example]:
        """Prompts with worlds to imitate, with ``repair`` a share of them behind a faulty one and its issues."""
        rows = self._corpus(split)
        if self.repair is None:
            return self._formed(rows)
        if split not in self._repairs:
            self._repairs[split] = Repairs(rows, self.scorer(), self.repair, f"{self.corpus_seed}/{split}")
        return self._repairs[split]

    def _formed(self, rows: Sequence[Example]) -> Sequence[Example]:
        return CompactWorlds(rows) if self.form == "compact" else rows

    def _corpus(self, split: Split) -> Sequence[Example]:
        """Prompts with worlds in JSON."""
        if self.worlds is not None:
            if split not in self._custom:
                self._custom[split] = custom_examples(self._worlds(split), self.cut)
            return self._custom[split]
        return Generated(self.sizes[split], self.corpus_seed, self.skew, split)

    def _worlds(self, split: Split) -> list[CustomWorld]:
        assert self.worlds is not None
        if self._dealt is None:
            self._dealt = custom_worlds(self.worlds, self.held_out)
        return self._dealt[split]

    def prompts(self, split: Split) -> Sequence[Prompt]:
        """Prompts for the policy; their column ``reference`` holds the corpus' world, that of a play ``world``.

        Raises:
            UserError: more prompts are asked for than `prompt_space` has, or grammars, and the worlds' prompts have no
                cast or no properties.
        """
        rows: NumberedPrompts
        if self.play is not None:
            return Plays(self._corpus(split), self.play)
        if self.prompt_space is None:
            rows = ExamplePrompts(self._formed(self._corpus(split)))
        else:
            rows = Combined(self.prompt_space, self.sizes[split], self.corpus_seed, split)
        if self.passages is not None:
            rows = Enriched(rows, self._nearest, self.passages_per_prompt)
        if self.grammar and len(rows) and prompt_grammar(rows[0].columns) is None:
            raise UserError(
                "data.grammar needs prompts with the columns `cast` and `properties`, which those of data.worlds lack; "
                "leave it out, or name a grammar by model.sampling.grammar"
            )
        return WithGrammar(rows) if self.grammar else rows

    def _nearest(self, texts: Sequence[str], count: int) -> list[list[str]]:
        assert self.passages is not None
        if self._passages is None:
            self._passages = Passages.open(self.passages)
        return [[one.text for one in found] for found in self._passages.nearest(texts, count)]

    def states(self, split: Split) -> list[State]:
        """Moments of seeded plays of corpus worlds, standardised by the layout of the training split."""
        played = list(self._played(split))
        if split == "train" and self._layout is None:
            self._layout = self._fit_layout(played)
        return [s for key, world, runs in played for s in states(world, runs, self.layout, key)]

    @property
    def layout(self) -> StateLayout:
        """How a moment becomes a vector, fitted once on plays of training worlds."""
        # Of corpus worlds, never of what the policy wrote: an SAE is warm-started from the last cycle's, and its
        # features would mean something else if the vectors' units moved from cycle to cycle.
        if self._layout is None:
            self._layout = self._fit_layout(self._played("train"))
        return self._layout

    def _fit_layout(self, played: Iterable[tuple[str, World, list[Play]]]) -> StateLayout:
        return StateLayout.fit(((world, runs) for _, world, runs in played), self.state_slots)

    def states_of(self, texts: Sequence[str], plays: int, seed: int) -> list[list[State]]:
        """States of seeded plays of every text that can be played, a list for each world."""
        scorer, worlds = self.scorer(), []
        for number, text in enumerate(texts):
            world = scorer(text).world
            if world is None:
                continue
            # Seeded by the text's number in the batch, so that a text that cannot be played shifts no other's plays.
            rng = np.random.default_rng([seed, number])
            runs = list(play_world(world, plays, rng, max_steps=self.verifiers.max_steps))
            if any(run.steps for run in runs):
                worlds.append(states(world, runs, self.layout, str(number), text))
        return worlds

    def _played(self, split: Split) -> Iterator[tuple[str, World, list[Play]]]:
        """(name, world, plays) of each world that can be played."""
        shared = self.state_split == "plays"
        for number, (name, world) in enumerate(islice(self._to_play(split), self.state_worlds)):
            if world is None:
                continue
            # The same worlds in every split, then: what differs is the plays.
            seeds = [self.corpus_seed, number, SPLITS.index(split)] if shared else [self.corpus_seed, number]
            rng, most = np.random.default_rng(seeds), self.verifiers.max_steps
            yield name or f"{split}-{number}", world, list(play_world(world, self.plays_per_world, rng, max_steps=most))

    def _to_play(self, split: Split) -> Iterator[tuple[str, World | None]]:
        """(name, world) of a split, whole worlds; all custom ones where splits differ in their plays alone."""
        if self.worlds is None:
            scorer, of = self.scorer(), "train" if self.state_split == "plays" else split
            yield from (("", scorer(row.completion).world) for row in self._corpus(of))
        else:
            found = self._every_world() if self.state_split == "plays" else self._worlds(split)
            yield from ((one.name, one.world) for one in found)

    def _every_world(self) -> list[CustomWorld]:
        assert self.worlds is not None
        if self._all is None:
            self._all = read_worlds(self.worlds)
        return self._all

    def tokenizer_names(self) -> Iterator[str]:
        """The words of prompts and of identifiers, but for those that belong to the format: nearly every text has them.

        An identifier stands alone between quotes: a character, a variable, an id. ``Bram_trust`` has two words.
        """
        # In JSON, where names stand between quotes.
        corpus = self._corpus("train") if self.form == "compact" else self.examples("train")
        rows = [(row.prompt, row.completion) for row in islice(corpus, NAMED_WORLDS)]
        texts = Counter(word for row in rows for word in set(_WORD.findall(prompt_text(row[0]) + row[1])))
        names = {word for prompt, _ in rows for word in _WORD.findall(prompt_text(prompt))}
        names |= {word for _, world in rows for quoted in _IDENTIFIER.findall(world) for word in _WORD.findall(quoted)}
        if len(rows) < FEW_WORLDS:
            yield from sorted(names - _FORMAT)
        else:
            yield from sorted(name for name in names if texts[name] < IN_EVERY * len(rows))

    # --- rewards and verifiers --------------------------------------------------------------------------------------

    def scorer(self, mode: Any = "strict") -> Scorer:
        """Scores texts by this task's verifiers."""
        return Scorer(self.verifiers, mode)

    def reward_settings(self, names: Sequence[str]) -> RewardSettings:
        """The verifiers, with components by their path beside the six, and how feature quality is measured.

        Warns where a reward asks for whole worlds of a kind of which the training examples hold none.
        """
        wanted = {"rarity": "playable"}
        for kind in dict.fromkeys(wanted.get(name, name) for name in names if name in (*wanted, "playable", "sound")):
            self._warn_of_none(kind)
        play = self.play_settings() if "play" in names else PlaySettings()
        return RewardSettings(self.verifiers, self.feature_quality, names, play)

    def play_settings(self) -> PlaySettings:
        """What plays of the policy are worth.

        Raises:
            UserError: prompts are not of plays.
        """
        if self.play is None:
            raise UserError("worlds are played where data.play is given, {} at the least; prompts then begin a play")
        return self.play

    def _warn_of_none(self, kind: str) -> None:
        """Say so if no training example has the component ``kind``, of as many as are looked at."""
        scorer = Scorer(replace(self.verifiers, weights={kind: 0.0}))
        texts = [row.completion for row in islice(self.view("examples", "train"), MOST_LOOKED_AT)]
        if any(scorer(text).components[kind] for text in texts):
            return
        more = "raise data.skew.second_ending and data.skew.gates" if self.worlds is None else "add some to data.worlds"
        logger.warning(
            "none of the first %d training worlds is %s, which a reward asks for: a policy that imitates them will not "
            "write one to learn from; %s (lit-narrative score says what a world lacks)", len(texts), kind, more
        )  # fmt: skip

    def verify(self, rollouts: Sequence[Rollout]) -> list[Verdict]:
        """Strict scores with their issues, and the total by the formulas of the original system beside them.

        Of plays: whether they came to an ending.
        """
        if self.play is not None:
            return [play_verdict(rollout, self.play) for rollout in rollouts]
        # The original has six components of fixed weights; those of the user's configuration are the strict score's.
        strict = self.scorer()
        original = Scorer(replace(self.verifiers, weights=dict(DEFAULT_WEIGHTS)), "original")
        return [_verdict(strict, original, rollout) for rollout in rollouts]

    def quick_shares(self, rollouts: Sequence[Rollout]) -> dict[str, float]:
        """Shares of sound and of playable worlds, and of those without an error; and mean adherence."""
        wholes = dict.fromkeys(("sound", "playable", "no_error"), 0.0)
        scorer = Scorer(replace(self.verifiers, weights={**wholes, **self.verifiers.weights}))
        scores = [scorer(rollout.text) for rollout in rollouts]
        shares = {name: fmean(score.components[name] for score in scores) for name in wholes}
        kept = [adherence(score.world, row.columns) for score, row in zip(scores, rollouts, strict=True)]
        asked = [share for share in kept if share is not None]
        return {**shares, "adherence": fmean(asked)} if asked else shares

    def unique_shares(self, texts: Sequence[str]) -> dict[str, float]:
        """Distinct texts, worlds apart from names, and skeletons; the effective number of shapes, and encounters."""
        return unique_shares(texts, self.verifiers.limits)


def _verdict(strict: Scorer, original: Scorer, rollout: Rollout) -> Verdict:
    score = strict(rollout.text)
    issues = tuple({"path": i.path, "message": i.message, "severity": i.severity} for i in score.issues)
    extra = {
        "original_total": original(as_json(rollout.text, strict.limits)).total,
        **{name: float(held) for name, held in score.parts.items()},
    }
    if (kept := adherence(score.world, rollout.columns)) is not None:
        extra["adherence"] = kept
    valid = score.components["valid_json"] > 0
    return Verdict(score.total, dict(score.components), valid, issues, extra, funnel(score.parts))
