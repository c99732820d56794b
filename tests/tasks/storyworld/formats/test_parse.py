"""Parsing: what is JSON, what is forgiven when asked, what is never read; and which format a file has."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_narrative.errors import UserError
from lit_narrative.tasks.storyworld.formats.parse import NO_VALUE, Limits, detect, nesting, parse
from lit_narrative.tasks.storyworld.verifiers.base import SIX
from lit_narrative.tasks.storyworld.verifiers.score import score
from tests.tasks.storyworld.lighthouse import lighthouse

TEXT = '{"a":[1,{"b":"]}"}]}'


@pytest.mark.parametrize("text", ['{"a":"\\ud800"}', '{"\\uDC00":1}', '["\ud83d"]', '[{"a":["\\ud83d\\ud83d"]}]'])
def test_half_a_character_is_not_unicode(text: str) -> None:
    parsed = parse(text)
    assert not parsed.ok
    assert "is half of a character" in parsed.issues[0].message
    assert 0 < parsed.read < 1


@pytest.mark.parametrize("text", [TEXT, f" \n{TEXT}\t", "null", "[]", '"x"', "1e3", '{"a":"\\ud83d\\ude00 \\\\ud800"}'])
def test_json_is_read(text: str) -> None:
    parsed = parse(text)
    assert parsed.ok
    assert parsed.value == json.loads(text)
    assert parsed.issues == ()
    assert parsed.read == 1.0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "Expecting value"),
        ("Once upon a time", "Expecting value"),
        (TEXT[:-1], "Expecting ',' delimiter"),
        (TEXT + "}", "text follows the value"),
        ("\ufeff{}", "Expecting value"),
        ("{\u00a0}", "Expecting property name"),
        ('{"a":NaN}', "NaN is not JSON"),
        ('{"a":-Infinity}', "-Infinity is not JSON"),
        ('{"a":' + "9" * 5000 + "}", "integer string conversion"),
        ("[" * 65 + "]" * 65, "nested 65 deep; at most 64"),
        ("[" * 100_000, "nested 100000 deep"),
        ("x" * (2**20 + 1), "1,048,577 characters; at most 1,048,576"),
        (None, "must be a str, not NoneType"),
        (b"{}", "must be a str, not bytes"),
        (bytearray(b"{}"), "must be a str, not bytearray"),
    ],
)
def test_what_is_not_read_has_one_issue_that_says_why(text: Any, says: str) -> None:
    parsed = parse(text)
    assert parsed.value is NO_VALUE
    assert not parsed.ok
    (issue,) = parsed.issues
    assert says in issue.message
    assert issue.path == "$"


def test_the_limits_are_settings() -> None:
    assert parse("[[1]]", Limits(max_depth=2)).ok
    assert not parse("[[1]]", Limits(max_depth=1)).ok
    assert parse("[1]", Limits(max_chars=3)).ok
    assert not parse("[1]", Limits(max_chars=2)).ok


@pytest.mark.parametrize("wrong", [{"max_chars": 0}, {"max_depth": 0}, {"max_depth": 501}])
def test_limits_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match="max_depth 1 to 500"):
        Limits(**wrong)  # type: ignore[arg-type]


def test_the_deepest_limit_is_read_from_a_deep_stack() -> None:
    def deeper(levels: int) -> bool:
        return parse("[" * 500 + "]" * 500, Limits(max_depth=500)).ok if levels == 0 else deeper(levels - 1)

    assert deeper(200)


def test_a_duplicate_key_is_reported_and_the_last_value_counts() -> None:
    parsed = parse('{"a":1,"b":{"c":1,"c":2},"a":3}')
    assert parsed.value == {"a": 3, "b": {"c": 2}}
    assert parsed.duplicates == 2
    assert "'c'" in parsed.issues[0].message


def test_a_code_fence_is_stripped_only_on_request() -> None:
    for fenced in (f"```json\n{TEXT}\n```", f"\ufeff```\n{TEXT}```\n"):
        assert not parse(fenced).ok
        assert parse(fenced, Limits(strip_code_fence=True)).value == json.loads(TEXT)
    for other in (TEXT, "```", "``````"):
        assert parse(other, Limits(strip_code_fence=True)).ok is parse(other).ok


def test_text_after_the_value_is_allowed_only_on_request_and_lowers_the_share() -> None:
    text = TEXT + "x" * len(TEXT)
    assert not parse(text).ok
    parsed = parse(text, Limits(allow_trailing_text=True))
    assert parsed.value == json.loads(TEXT)
    assert parsed.read == 0.5


def test_prose_before_the_first_object_is_skipped_only_on_request() -> None:
    text = f'He said "[[": {TEXT}'
    assert not parse(text).ok
    parsed = parse(text, Limits(extract_first_object=True))
    assert parsed.value == json.loads(TEXT)
    assert 0 < parsed.read < 1
    assert not parse("no object", Limits(extract_first_object=True)).ok


def test_the_share_read_grows_with_the_sound_part() -> None:
    text = json.dumps({"a": list(range(20))})
    shares = [parse(text[:end]).read * end for end in range(1, len(text))]
    assert shares == sorted(shares)
    assert parse(text[:-1]).read > 0.9
    assert parse("}" + text).read == 0.0


@given(st.recursive(st.text() | st.integers(), lambda x: st.lists(x) | st.dictionaries(st.text(), x), max_leaves=20))
def test_nesting_is_the_depth_of_the_value(value: Any) -> None:
    def depth(part: Any) -> int:
        if not isinstance(part, list | dict):
            return 0
        return 1 + max((depth(inner) for inner in (part.values() if isinstance(part, dict) else part)), default=0)

    assert nesting(json.dumps(value)) == depth(value)
    assert nesting(json.dumps(value, ensure_ascii=False)) == depth(value)


SWEEPWEAVE = {"IFID": "SW-1", "characters": [], "authored_properties": [], "spools": [], "encounters": []}


def test_a_sweepweave_file_without_a_world_earns_nothing() -> None:
    assert detect(SWEEPWEAVE) == "sweepweave"
    result = score(json.dumps(SWEEPWEAVE))
    assert "there are no encounters" in result.issues[-1].message
    assert result.components == {**dict.fromkeys(SIX, 0.0), "valid_json": 1.0}
    assert result.total == 0.0


@pytest.mark.parametrize("value", [{}, {"spools": []}, lighthouse(), {**lighthouse(), "IFID": "x", "spools": []}])
def test_the_rest_is_simple(value: dict) -> None:
    assert detect(value) == "simple"
