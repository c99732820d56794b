"""Worlds before and after, for the same prompts, drawn as graphs."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lit_narrative.report.format import clip
from lit_narrative.report.page import Section, render
from lit_narrative.tasks.storyworld.formats.parse import parse
from lit_narrative.tasks.storyworld.formats.simple import read_world
from lit_narrative.tasks.storyworld.report.run import Run, Sample
from lit_narrative.tasks.storyworld.report.world_graph import (
    MAX_ENCOUNTERS,
    describe_option,
    draw_world,
    leads_to,
)
from lit_narrative.tasks.storyworld.simulator.graph import is_terminal, offered, outline
from lit_narrative.tasks.storyworld.world import World

FIRST = 3
"""Prompts shown without choosing among them."""
_ISSUES, _OPTIONS, _RAW = 5, 6, 6000


@dataclass(frozen=True, slots=True)
class Card:
    """One sample as the page shows it.

    Attributes:
        who: which policy wrote it.
        tone: its colour role.
        sample: the sample, its texts cut to a bearable length.
        graph: the drawn world; None if the text holds none.
        story: the same world in words, an entry an encounter.
        left_out: encounters that are not drawn.
        more_issues: issues that are not shown.
    """

    who: str
    tone: str
    sample: Sample
    graph: Markup | None
    story: Sequence[tuple[str, str, Sequence[str]]]
    left_out: int
    more_issues: int


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt with what either policy made of it; the prompt is empty where it is that of the pair before."""

    title: str
    prompt: str
    cards: tuple[Card, Card]


def worlds(run: Run) -> Section:
    """Draw the first prompts' worlds, then the final policy's best and its worst that parses."""
    pairs = choose(run.before.samples, run.after.samples)
    prompts = ["", *(before.prompt for _, before, _ in pairs)]
    # A prompt that was completed several times is shown once.
    shown = [_pair(title, before, after, prompts[i]) for i, (title, before, after) in enumerate(pairs)]
    missing = [test.name for test in (run.before, run.after) if not test.samples]
    return Section("worlds", "Worlds before and after", render(__name__, "worlds.html", pairs=shown, missing=missing))


def choose(before: Sequence[Sample], after: Sequence[Sample]) -> list[tuple[str, Sample, Sample]]:
    """Match samples by prompt and pick those to show, each with the reason it is shown.

    The k-th sample of a prompt before is matched with its k-th after.
    """
    earlier = dict(zip(_keys(before), before, strict=True))
    later = dict(zip(_keys(after), after, strict=True))
    # In the order of the second test; prompts that one test alone was given are left out.
    matched = [(earlier[key], later[key]) for key in later if key in earlier]
    picked = [(f"Prompt {index}, as it came", *pair) for index, pair in enumerate(matched[:FIRST], start=1)]
    # The rest only: what was shown unchosen must not be chosen again as an extreme.
    rest = sorted(matched[FIRST:], key=lambda pair: pair[1].reward)
    if rest:
        picked.append(("The final model's best among the other samples", *rest[-1]))
    # The worst text is mostly one cut off at the limit, which shows nothing about worlds.
    readable = [pair for pair in rest[:-1] if pair[1].components.get("valid_json", 1) > 0]
    if readable:
        picked.append(("The final model's lowest score among the others that parse", *readable[0]))
    return picked


def _keys(samples: Sequence[Sample]) -> list[tuple[str, int]]:
    met: dict[str, int] = {}
    keys = []
    for sample in samples:
        met[sample.prompt] = met.get(sample.prompt, 0) + 1
        keys.append((sample.prompt, met[sample.prompt]))
    return keys


def _pair(title: str, before: Sample, after: Sample, last: str) -> Pair:
    prompt = "" if before.prompt == last else clip(before.prompt, 600)
    return Pair(title, prompt, (_card("SFT", "sft", before), _card("final", "final", after)))


def _card(who: str, tone: str, sample: Sample) -> Card:
    world = _world(sample.text)
    label = f"Graph of the world that the {who} model wrote, score {sample.reward:.2f}"
    return Card(
        who=who,
        tone=tone,
        sample=_shortened(sample),
        graph=None if world is None else draw_world(world, label),
        story=_told(world) if world else [],
        left_out=max(0, len(world.encounters) - MAX_ENCOUNTERS) if world else 0,
        more_issues=max(0, len(sample.issues) - _ISSUES),
    )


def _world(text: str) -> World | None:
    """Return the world that a text holds, if it holds one with encounters."""
    world, _ = read_world(parse(text).value)
    return world if world is not None and world.encounters else None


def _shortened(sample: Sample) -> Sample:
    return Sample(
        prompt=clip(sample.prompt, 600),
        text=clip(sample.text, _RAW),
        reward=sample.reward,
        components=sample.components,
        issues=sample.issues[:_ISSUES],
        finished=sample.finished,
    )


def _told(world: World) -> Sequence[tuple[str, str, Sequence[str]]]:
    plan = outline(world)
    told: list[tuple[str, str, Sequence[str]]] = []
    for position, encounter in enumerate(world.encounters[:MAX_ENCOUNTERS]):
        # The plan knows where an option really leads, after dangling names and defaults.
        options = offered(plan, position)[:_OPTIONS]
        words = [f"{describe_option(option)}; {leads_to(plan, option, choice.target)}" for option, choice in options]
        title = clip(encounter.id, 60) + (" (ending)" if is_terminal(plan, position) else "")
        told.append((title, clip(encounter.text, 400), words))
    return told
