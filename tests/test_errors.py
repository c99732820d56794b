"""Errors of the person's: one line that names what was given, the nearest name, and the names that there are."""

import pytest

from lit_narrative.errors import UserError, check_choice


def test_a_known_name_passes() -> None:
    check_choice("model.rewards", "format", ["correct", "format"])


@pytest.mark.parametrize(
    ("value", "known", "other", "message"),
    [
        ("formt", ["correct", "format"], "", "x: there is no 'formt'; did you mean 'format'? (known: correct, format)"),
        ("zzz", ["correct", "format"], "", "x: there is no 'zzz' (known: correct, format)"),
        (
            "zzz",
            iter(["a"]),
            "a path package.module:object",
            "x: there is no 'zzz' (known: a, or a path package.module:object)",
        ),
        ("zzz", [], "", "x: there is no 'zzz' (known: none)"),
    ],
)
def test_an_unknown_name_is_told_with_those_there_are(value: str, known: list[str], other: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        check_choice("x", value, known, other)
    assert str(error.value) == message
