"""Candidates for the next segment of a text, from a model under the settings of a session."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from lit_narrative.cli.write.session import Candidate, ChosenTopic, Position, WriteSession, WriteSettings
from lit_narrative.datamodules.base import TaskDataModule
from lit_narrative.errors import UserError
from lit_narrative.modules.steering import SteeringModule
from lit_narrative.rl.best_of import order_keys
from lit_narrative.rl.rewards.base import known_scores, read_score
from lit_narrative.steering.attributes import Attributes
from lit_narrative.steering.bags import find_words, weigh
from lit_narrative.steering.factory import SteeringChoice
from lit_narrative.steering.settings import Attribute, Method
from lit_narrative.views import Conversation, Prompt, Rollout, prompt_text

STRENGTHS: Mapping[Method, str] = {
    "pplm": "stepsize",
    "bias": "bias",
    "activation": "coefficient",
    "experts": "alpha",
}
"""The setting that says how strongly a method steers."""

_TURN = "\n\n"
"""Between the question and the answer of a chat, as a person sees them."""


class WriteEngine:
    """A model that proposes what comes next.

    Args:
        module: the model, ready to write, and how it is steered; it is prepared again when that changes.
        task: whose prompts, topics and rewards there are.

    Raises:
        UserError: the task has no prompts.
    """

    def __init__(self, module: SteeringModule, task: TaskDataModule) -> None:
        self.module, self.prompts = module, task.view("prompts", task.predict_split)
        self.word_lists = task.word_lists
        if not len(self.prompts):
            raise UserError(f"{type(task).__name__} has no prompts to begin with; check the sizes under `data`")
        self.given, self.choice, self.best_of = list(module.given), module.choice, module.best_of
        module.best_of = replace(module.best_of, samples=1)  # the candidates themselves are ranked
        self._ready: WriteSettings | None = None
        self._attributes: Attributes

    def first_settings(self, candidates: int, length: int) -> WriteSettings:
        """The settings that the configuration stands for."""
        choice = self.choice
        return WriteSettings(
            method=choice.method,
            stepsize=choice.pplm.stepsize,
            bias=choice.bias,
            coefficient=choice.activation.coefficient,
            alpha=choice.experts.alpha,
            temperature=self.module.sampling.temperature,
            drawn=max(candidates, self.best_of.samples),
            shown=candidates,
            length=length,
        )

    def beginning(self, number: int, text: str | None = None) -> Position:
        """The beginning of a text: a prompt of the task, by number (it wraps around), or a custom text in its place."""
        number %= len(self.prompts)
        begun = prompt_text(self.prompts[number].text) if text is None else text
        return Position(begun + _TURN if self.module.chat else begun, number)

    def topic(self, name: str) -> ChosenTopic:
        """A topic of the task's prompts, a word list of the task, or a file of words.

        Raises:
            UserError: there is none.
        """
        for prompt in self.prompts if "topic" in self.prompts[0].columns else ():
            columns = prompt.columns
            if columns.get("topic") == name and columns.get("bag"):
                return ChosenTopic(name, dict(weigh(columns["bag"])), list(columns.get("held_out", ())))
        words, lists = find_words(name, self.word_lists), self.word_lists
        return ChosenTopic(name, dict(weigh(words)), list(lists[name].held_out) if name in lists else [])

    def topic_name(self, session: WriteSession) -> str | None:
        """What is written about: the chosen topic, or the one that the task's prompt asks for."""
        chosen = session.settings.topic
        return chosen.name if chosen else self.prompts[session.position.number].columns.get("topic")

    def draw(self, position: Position, settings: WriteSettings, seed: int) -> tuple[WriteSettings, list[Candidate]]:
        """Candidates for the next segment, the best first.

        Returns:
            The settings, their step size filled in where it was ``auto``; and the candidates.

        Raises:
            UserError: the text is too long, or it cannot be steered like that.
        """
        settings = self._prepare(settings)
        params = replace(self.module.sampling, max_new_tokens=settings.length, temperature=settings.temperature)
        prompt = Prompt(self._read(position), self._columns(self.prompts[position.number], settings))
        rollouts = self.module.generate([prompt], settings.drawn, seed, params, streams=[0])
        scores = self._scores(rollouts)
        keys = order_keys(rollouts, scores, self.best_of.min_distinct)
        order = sorted(range(len(rollouts)), key=keys.__getitem__, reverse=True)
        candidates = [Candidate(_whole(rollouts[n]), rollouts[n].finished, scores[n]) for n in order]
        return settings, candidates[: settings.shown]

    def _read(self, position: Position) -> Conversation:
        """The prompt that the model reads: the text, or in a chat the conversation with the answer that is begun."""
        if not self.module.chat:
            return position.text
        asked, given = position.prompt.removesuffix(_TURN), self.prompts[position.number].text
        messages = [{"role": "user", "content": asked}]
        if not isinstance(given, str) and asked == prompt_text(given):
            messages = [dict(message) for message in given]
        if not position.written:
            return messages
        begun = messages.pop()["content"] if messages[-1]["role"] == "assistant" else ""
        return [*messages, {"role": "assistant", "content": begun + position.written}]

    def _scores(self, rollouts: Sequence[Rollout]) -> Sequence[float | None]:
        if self.best_of.rank == "attribute" and not self.module.given:
            return [None] * len(rollouts)
        return known_scores([read_score(score) for score in self.module.rank_by(self._attributes)(rollouts)])

    # --- steering ---------------------------------------------------------------------------------------------------

    def _prepare(self, settings: WriteSettings) -> WriteSettings:
        """Make the module ready to steer by ``settings``, unless it is."""
        if self._ready is None or _steering(settings) != _steering(self._ready):
            self._ready, module = None, self.module
            module.given, module.choice = on_topic(self.given, settings.topic), self._chosen(settings)
            some = islice(self.prompts, module.search.prompts)  # a view need not take slices
            prompts = [Prompt(prompt.text, self._columns(prompt, settings)) for prompt in some]
            self._attributes = module.prepare_steering(prompts)
            self._ready = replace(settings, stepsize=module.in_use.pplm.stepsize)
        return replace(settings, stepsize=self._ready.stepsize)

    def _chosen(self, settings: WriteSettings) -> SteeringChoice:
        choice, label = self.choice, "topic" if settings.topic else self.choice.activation.label
        return replace(
            choice,
            method=settings.method,
            pplm=replace(choice.pplm, stepsize=settings.stepsize),
            bias=settings.bias,
            activation=replace(choice.activation, coefficient=settings.coefficient, label=label),
            experts=replace(choice.experts, alpha=settings.alpha),
        )

    def _columns(self, prompt: Prompt, settings: WriteSettings) -> dict[str, Any]:
        topic = settings.topic
        chosen = {"topic": topic.name, "bag": dict(topic.words), "held_out": list(topic.held_out)} if topic else {}
        return {**prompt.columns, **chosen}


def on_topic(given: Sequence[Attribute], topic: ChosenTopic | None) -> list[Attribute]:
    """What to steer to when a topic was chosen: its words in place of all word lists; heads stay.

    Its words are added where nothing else goes by the topic, neither a word list nor a head whose class is the column
    ``topic`` of the prompts.
    """
    heads = [attribute for attribute in given if attribute.head is not None]
    lists = [attribute for attribute in given if attribute.head is None]
    if topic is None or (not lists and any(head.label == "topic" for head in heads)):
        return list(given)
    first = lists[0] if lists else Attribute(bag=topic.name)
    return [replace(first, column=None, bag=dict(topic.words)), *heads]


def _whole(rollout: Rollout) -> str:
    """The text of a rollout; a character that the limit of tokens has cut in two is left out."""
    return rollout.text if rollout.finished else rollout.text.rstrip("\ufffd")


def _steering(settings: WriteSettings) -> tuple[Any, ...]:
    """What steering depends on."""
    strengths = [getattr(settings, name) for name in STRENGTHS.values()]
    return settings.method, settings.topic, *strengths
