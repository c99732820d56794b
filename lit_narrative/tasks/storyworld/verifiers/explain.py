"""From a judged text to the list of its issues: slow and full, for people."""

from collections.abc import Callable, Mapping
from itertools import chain, islice

from lit_narrative.tasks.storyworld.checks import Path
from lit_narrative.tasks.storyworld.formats.file_paths import FilePaths
from lit_narrative.tasks.storyworld.formats.parse import detect
from lit_narrative.tasks.storyworld.issues import MOST_ISSUES, Issue, json_path, schema_issues
from lit_narrative.tasks.storyworld.simulator.graph import is_terminal, lint_warnings
from lit_narrative.tasks.storyworld.simulator.quick_plays import live_gates
from lit_narrative.tasks.storyworld.verifiers.base import Context

LONGEST_CHECKED = 2**16
"""Characters of a text that is checked against the schema; of a longer one faults of shape are counted by kind, since
the check takes up to 5 µs a character."""


def explain(context: Context) -> tuple[Issue, ...]:
    """Errors first: the text, the shape, the references; then warnings: the story, and where the minima are missed."""
    if not context.parsed.ok:
        return context.parsed.issues
    if type(context.value) is not dict:
        return (Issue("$", f"the top level must be an object, not {_json_type(context.value)}"),)
    issues = list(context.parsed.issues)
    converted = detect(context.value) == "sweepweave"
    if converted:
        issues += context.odd
    elif context.malformed.total():
        short = len(context.text) <= LONGEST_CHECKED
        issues += schema_issues(context.value) if short else _counted(context.malformed)
    # Of a SweepWeave file the positions are those of the world that `convert --to simple` writes.
    file_path: Callable[[Path], str] = json_path if converted else FilePaths(context.value)
    # Bounded: a policy can write thousands of faults, and a page shows a few.
    for fault in islice(chain(*context.faults), MOST_ISSUES):
        issues.append(Issue(file_path(fault.path), fault.message))
    # Warnings about the story would only repeat that it has no encounter.
    if not context.story.encounters:
        return tuple(issues)
    if not any([encounter.options for encounter in context.story.encounters]):
        issues.append(Issue("$.encounters", "no encounter has an option: there is nothing to choose"))
    for fault in islice(lint_warnings(context.plan), MOST_ISSUES):
        issues.append(Issue(file_path(fault.path), fault.message, "warning"))
    return (*issues, *_shortfalls(context))


def _counted(malformed: Mapping[str, int]) -> list[Issue]:
    return [Issue("$", f"malformed {kind}: {count}; a shorter text is told where") for kind, count in malformed.items()]


def _shortfalls(context: Context) -> list[Issue]:
    """Where a world falls short of the minima that the components ask for."""
    config, plan, world = context.config, context.plan, context.story
    changed = {c[0] for i in context.reachable for choice in plan.scenes[i] for c in choice.changes if c[1]}
    counts = (
        ("characters", len(world.characters), config.min_characters),
        ("encounters from which an ending can be reached", len(context.viable), config.min_encounters),
        ("reachable endings", sum([is_terminal(plan, i) for i in context.reachable]), config.min_endings),
        ("variables that effects change", len(changed), config.min_effect_types),
    )
    issues = [f"{what}: {count}; {least} or more earn full marks" for what, count, least in counts if count < least]
    total = sum([len(encounter.options) for encounter in world.encounters])
    live = live_gates(plan, context.played)
    # Multiplied out rather than divided, so that exactly one fifth and one half are within, where `gate_curve` is 1.
    if total and not total <= 5 * len(live) <= 2.5 * total:
        issues.append(
            f"options met both open and closed: {len(live)} of {total}; one fifth to one half earn full marks"
        )
    return [Issue("$", message, "warning") for message in issues]


def _json_type(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
