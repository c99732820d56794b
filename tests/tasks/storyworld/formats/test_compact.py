"""The compact form: written, and read back to the same value; bad text has one issue, in bounded time."""

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_narrative.tasks.storyworld.formats.compact_write import write_compact
from lit_narrative.tasks.storyworld.formats.files import FILE_LIMITS, read_any
from lit_narrative.tasks.storyworld.formats.parse import Limits, as_json, parse
from lit_narrative.tasks.storyworld.generator import Skew, example
from lit_narrative.tasks.storyworld.pieces import encounter_spans
from lit_narrative.tasks.storyworld.verifiers.score import score
from tests.paths import WORLDS

FAULTY = Skew(dangling=0.5, unreferenced=0.5, closing_option=0.5, third_character=0.5)
WORLD = json.loads(example(3, 0).completion)
COMPACT = write_compact(WORLD)


@settings(max_examples=30, deadline=None)
@given(index=st.integers(0, 10**6), seed=st.integers(0, 9))
def test_worlds_of_the_generator_come_back_letter_by_letter(index: int, seed: int) -> None:
    text = example(index, seed, FAULTY).completion
    compact = write_compact(json.loads(text))
    assert "{" not in compact and len(compact) < 0.6 * len(text)
    assert as_json(compact) == text
    assert parse(compact).issues == () and parse(compact).read == 1
    assert score(compact).components == score(text).components
    assert score(compact).issues == score(text).issues


NAMES = st.sampled_from(
    ["Ada", "gold", "END", "NEXT", "end", "two words", 'a"b', "a:b", "", "{", "#", "é\u2028", "+1", "5"]
)
TEXTS = st.sampled_from(
    ["", "Go.", '"Stop!" she says.', '"Stop!"', " led", "two\nlines", "a: b > c ? d", "end", "\x85", "\r"]
)
NUMBERS = st.sampled_from([0, 1, -3, 2.5, 1e-7, -0.0, 1e12, True])
VALUES: Any = st.recursive(st.none() | NUMBERS | NAMES, lambda one: st.lists(one, max_size=2), max_leaves=3)


def objects(**parts: Any) -> Any:
    """Objects of the format, of which any part may be missing or something else, with other keys beside them."""
    some = {name: part | VALUES if name not in ("id",) else part for name, part in parts.items()}
    whole = st.fixed_dictionaries(parts)
    return (
        whole
        | st.fixed_dictionaries({}, optional=some)
        | st.tuples(whole, st.dictionaries(NAMES, VALUES)).map(lambda pair: {**pair[1], **pair[0]})
    )


GATES = objects(variable=NAMES, comparison=st.sampled_from([">=", "=", "!="]), value=NUMBERS)
EFFECTS = objects(variable=NAMES, change=NUMBERS)
REACTIONS = objects(text=TEXTS, after_effects=st.lists(EFFECTS, max_size=2), next_encounter=st.none() | NAMES)
OPTIONS = objects(
    id=NAMES, text=TEXTS, gates=st.lists(GATES, max_size=2), reactions=st.lists(REACTIONS | VALUES, max_size=2)
)
ENCOUNTERS = objects(id=NAMES, text=TEXTS, options=st.lists(OPTIONS | VALUES, max_size=2))
ANY_WORLD = objects(
    characters=st.dictionaries(NAMES, st.dictionaries(NAMES, NUMBERS, max_size=2), max_size=2),
    initial_state=st.dictionaries(NAMES, NUMBERS, max_size=2),
    properties=st.dictionaries(NAMES, st.fixed_dictionaries({"min": NUMBERS, "max": NUMBERS}) | VALUES, max_size=2),
    encounters=st.lists(ENCOUNTERS, max_size=2),
)


@settings(max_examples=80, deadline=None)
@given(value=ANY_WORLD)
def test_any_object_comes_back(value: Any) -> None:
    parsed = parse(write_compact(value))
    assert parsed.ok, parsed.issues
    # As JSON: Python finds 1, 1.0 and True equal.
    assert json.dumps(parsed.value, sort_keys=True) == json.dumps(value, sort_keys=True)


@pytest.mark.skipif(not WORLDS.is_dir(), reason="no real worlds here")
def test_real_files_come_back_from_their_simple_form() -> None:
    found = [read_any(path.read_text(encoding="utf-8-sig")).world for path in sorted(WORLDS.rglob("*.json"))]
    worlds = [world.to_json() for world in found if world is not None]
    assert len(worlds) >= 10
    for value in worlds:
        assert parse(write_compact(value), FILE_LIMITS).value == value


def test_text_around_it_is_forgiven_when_asked() -> None:
    chatty = f"Here is a world:\n{COMPACT}\nI hope you like it."
    assert not parse(chatty).ok
    forgiving = Limits(extract_first_object=True, allow_trailing_text=True, strip_code_fence=True)
    assert parse(chatty, forgiving).value == WORLD
    assert parse(f"```\n{COMPACT}\n```", forgiving).value == WORLD
    assert 0 < parse(chatty, forgiving).read < 1


LINES = COMPACT.split("\n")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\n".join(LINES[:-1]), "it breaks off"),
        (COMPACT[: len(COMPACT) // 2], "it breaks off"),
        ("cast", "it breaks off"),
        (f"{COMPACT}\nmore", "text follows"),
        (COMPACT.replace("# ", "Scene ", 1), "line 4: it begins with none of cast, state"),
        ("cast A trust x\nend", "line 1: Expecting value"),
        ("cast A trust\nend", "line 1: Expecting value"),
        ("cast\nstate gold many\nend", "line 2: Expecting value"),
        ("cast\nstate gold NaN\nend", "line 2: NaN is not JSON"),
        ("cast\nstate gold " + "9" * 5000 + "\nend", "line 2: Exceeds the limit"),
        ("cast\nproperties gold 0 x\nend", "line 2: Expecting value"),
        ("cast\n* go: Go.\nend", "line 2: an option belongs under an encounter"),
        ("cast\n# a\nend", "line 2: a colon and a text are missing"),
        ("cast\n# a: A.\n> b\nend", "line 3: a reaction belongs under an option"),
        ("cast\n# a: A.\n? gold > 1\nend", "line 3: gates belong under an option"),
        ("cast\n# a: A.\n* b: B.\n? gold = 1\nend", "line 4: '=' is none of"),
        ("cast\n# a: A.\n* b: B.\n? gold > 1 2\nend", "line 4: '2' is not expected here"),
        ("cast\n# a: A.\n* b: B.\n> c gold\nend", "line 4: Expecting value"),
        ("cast\n# a: A.\n* b: B.\n>\nend", "line 4: a name is missing"),
        ("cast\n# a: A.\ncast B\nend", "line 3: `cast` stands below the first encounter"),
        ('cast\n# {"id":1\nend', "line 2: Expecting ',' delimiter"),
        ('cast\n# {"id":1}\n+ {"a":1}\nend', "line 3: `+` stands below a part that is not JSON"),
        ("cast\n+ {\"a\":" + "[" * 70 + "]" * 70 + "}\nend", "nested too deep"),
    ],
)  # fmt: skip
def test_other_text_has_one_issue_that_says_why(text: str, says: str) -> None:
    parsed = parse(text)
    (issue,) = parsed.issues
    assert not parsed.ok and says in issue.message
    assert 0 <= parsed.read < 1
    assert score(text).total == 0


def test_a_key_that_comes_twice_is_an_issue() -> None:
    parsed = parse("cast A trust 1, A trust 2\nstate\nproperties\n# a: A.\nend")
    assert parsed.value["characters"] == {"A": {"trust": 2}} and parsed.duplicates == 1


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_damaged_text_never_raises(data: st.DataObject) -> None:
    at, to = sorted((data.draw(st.integers(0, len(COMPACT))), data.draw(st.integers(0, len(COMPACT)))))
    put = data.draw(st.text(max_size=5) | st.sampled_from(['"', "{", "\n+ {", "\n", "[" * 99, ": ", "\\u", "\ud800"]))
    text = COMPACT[:at] + put + (COMPACT[at:] if data.draw(st.booleans()) else COMPACT[to:])
    parsed = parse(text)
    assert parsed.ok or len(parsed.issues) == 1
    assert 0 <= score(text).total <= 1


@pytest.mark.parametrize(
    "unit", ["{},", '"', '\\"', "{", "[", "a 1,", "\n", "\n# a: A.", ": ", '{"a":', "\n? ", "a" * 50, " ", "+ {}\n"]
)
def test_hostile_text_is_read_in_bounded_time(unit: str) -> None:
    for before in ("cast\n# a: A.\n* b: B.\n> c ", "cast\n# a: A.\n* b: B.\n? ", "cast ", 'cast\n+ {"a":"'):
        text = before + unit * (2**16 // len(unit))
        began = time.thread_time()
        parse(text)
        assert time.thread_time() - began < 2  # that of a square of its length is minutes


def test_encounters_are_found_in_it() -> None:
    text = "cast\n# a: A.\n* b: B.\n> c\n* d: D.\n> END\n# c: C.\nend"
    spans = [(text[slice(*whole)], [text[slice(*one)] for one in options]) for whole, options in encounter_spans(text)]
    assert spans == [
        ("# a: A.\n* b: B.\n> c\n* d: D.\n> END\n", ["* b: B.\n> c\n", "* d: D.\n> END\n"]),
        ("# c: C.\n", []),
    ]
