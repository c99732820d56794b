"""A world as an environment of text: the policy plays it. The calls are those of gymnasium (without importing it)."""

import re
from collections.abc import Mapping
from typing import Any

from lit_narrative.errors import check_least
from lit_narrative.tasks.storyworld.simulator.engine import Engine, Moment
from lit_narrative.tasks.storyworld.simulator.engine_plays import look
from lit_narrative.tasks.storyworld.simulator.policies import numbered, said, words
from lit_narrative.tasks.storyworld.simulator.records import OUTCOMES, Outcome, Step, chosen, named, renamed
from lit_narrative.tasks.storyworld.world import World

_NUMBER = re.compile(r"\d{1,6}")
INVALID = "That is no open option. Answer with the number of one.\n> "


class WorldEnv:
    """One play an episode: the observation is the story so far with its open options, the action a text that names one.

    ::

        env = WorldEnv(world, values={"dawn": 1.0, "wreck": -1.0})
        text, info = env.reset()
        text, reward, terminated, truncated, info = env.step("2")

    An action names an option by its number, else by its id or its very words. One that names none changes nothing, and
    costs a step. Nothing is drawn by chance: a play is a function of its actions.

    Args:
        world: any world, or an engine with settings of its own.
        values: ending encounter -> reward for coming to it; an ending that is not named is worth ``ending``.
        ending: reward for an ending without a value of its own.
        dead_end: reward for a play that is stuck, leads to nothing, or ends without a word.
        invalid: reward for an action that names no open option.
        max_steps: actions an episode.

    Raises:
        UserError: ``max_steps`` is below 1.
    """

    def __init__(
        self,
        world: World | Engine,
        values: Mapping[str, float] | None = None,
        ending: float = 1.0,
        dead_end: float = 0.0,
        invalid: float = 0.0,
        max_steps: int = 100,
    ) -> None:
        check_least("max_steps", max_steps, 1)
        self.engine = world if isinstance(world, Engine) else Engine(world)
        self.values, self.ending, self.dead_end, self.invalid = dict(values or {}), ending, dead_end, invalid
        self.max_steps = max_steps
        self._over = True

    def reset(self, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Begin an episode; ``seed`` and ``options`` are gymnasium's, and a play depends on neither.

        Returns:
            The first encounter with its open options; and what is known: ``encounter``, ``state``, ``open`` (positions
            of the open options), ``outcome`` (``None`` while the play goes on).
        """
        self._moment: Moment = self.engine.begin()
        self._state = named(self.engine.names, self.engine.start)
        self._actions, self._text = 0, ""
        self.steps: list[Step] = []
        self._arrive()
        return self._text, self._info()

    def step(self, text: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take an action.

        Args:
            text: what the policy wrote.

        Returns:
            The story so far; the reward; whether the play has ended; whether ``max_steps`` cut it off; and what is
            known, as of `reset`, with ``valid``, and ``told``: what the action led to.

        Raises:
            RuntimeError: the episode is over, or was not begun.
        """
        if self._over:
            raise RuntimeError("the episode is over; call reset() first")
        self._actions += 1
        position = self._read(text)
        self._text += f"{text.strip()[:200]}\n"
        before = len(self._text)
        if position is None:
            self._text += INVALID
            reward = self.invalid
        else:
            self._take(position)
            reward = self._worth()
        terminated = self.outcome is not None
        truncated = not terminated and self._actions >= self.max_steps
        self._over = terminated or truncated
        return (
            self._text,
            reward,
            terminated,
            truncated,
            {
                **self._info(),
                "valid": position is not None,
                "told": self._text[before:],
            },
        )

    def _read(self, text: str) -> int | None:
        """The open option that an action names."""
        answer, options = text.strip(), self.engine.world.encounters[self._moment.index].options
        if (number := _NUMBER.match(answer)) is not None:
            position = int(number.group()) - 1
            return position if position in self._open else None
        return next((i for i in self._open if answer and answer in (options[i].id, words(options[i]))), None)

    def _take(self, position: int) -> None:
        index = self._moment.index
        self._moment, way = self.engine.take(self._moment, position)
        self.steps[-1] = chosen(self.steps[-1], position, way.reaction)
        self._state = renamed(self._state, self.engine.names, way.changed, self._moment.state)
        if words_said := said(self.engine.world.encounters[index].options[position], way.reaction):
            self._text += f"{words_said}\n"
        self._arrive()

    def _arrive(self) -> None:
        """Look at the encounter that was come to, if any, and tell it."""
        self._open: tuple[int, ...] = ()
        self.outcome: Outcome | None = OUTCOMES.get(self._moment.index)
        if self.outcome is None:
            step = look(self.engine, self._moment, self._state, len(self.steps))
            self.steps.append(step)
            self._open = tuple([i for i, free in enumerate(step.open) if free])
            encounter = self.engine.world.encounters[self._moment.index]
            self._text += f"{encounter.text}\n"
            if self._open:
                self._text += f"{numbered(encounter, self._open)}\n> "
            else:
                self.outcome = "stuck" if step.options else "ending"
        self._over = self.outcome is not None

    def _worth(self) -> float:
        if self.outcome is None:
            return 0.0
        return self.values.get(self.steps[-1].encounter, self.ending) if self.outcome == "ending" else self.dead_end

    def _info(self) -> dict[str, Any]:
        encounter = self.steps[-1].encounter if self.steps else None
        return {"encounter": encounter, "state": self._state, "open": self._open, "outcome": self.outcome}
