"""Commands of writing: whole words, and nothing guessed."""

import pytest

from lit_narrative.cli.write.commands import FORMS, Command, parse, usage
from lit_narrative.errors import UserError


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("", Command("take")),
        ("  \t", Command("take")),
        ("2", Command("take", number=2.0)),
        ("0", Command("take", number=0.0)),
        ("u", Command("undo")),
        ("undo", Command("undo")),
        ("t ocean", Command("topic", "ocean")),
        ("t my words/of  the sea.txt", Command("topic", "my words/of  the sea.txt")),
        ("k 0.3", Command("strength", "0.3")),
        ("k auto", Command("strength", "auto")),
        ("temp 0.7", Command("temperature", "0.7", 0.7)),
        ("m bias", Command("method", "bias")),
        ("r 16", Command("rerank", "16", 16.0)),
        ("+", Command("rate", number=1.0)),
        (" - ", Command("rate", number=0.0)),
        ("rate 0.25", Command("rate", "0.25", 0.25)),
        ("e", Command("new")),
        ("e The sea,", Command("new", "The sea,")),
        ("e \udcff", Command("new", "?")),
        ("s", Command("save")),
        ("s a\0.txt", Command("save", "a\ufffd.txt")),
        ("s a.txt", Command("save", "a.txt")),
        ("?", Command("help")),
        ("q", Command("quit")),
    ],
)
def test_commands(line: str, command: Command) -> None:
    assert parse(line) == command


@pytest.mark.parametrize(
    "line",
    # what the original took for "like" (1.0) or for a rating, a bare number, and other words that only contain commands
    ["look", "dislike", "not good", "star 3", "r: 0.8", "0.8", "-1", "+1", "++", "2 foo", "²", "quite", "T sea", "no"],
)
def test_what_is_no_command_is_never_taken_for_one(line: str) -> None:
    with pytest.raises(UserError, match="is not a command"):
        parse(line)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("tpic ocean", r"'tpic' is not a command; did you mean 'topic'\?"),
        ("udno", "did you mean 'undo'"),
        ("t", "write it as: t TOPIC"),
        ("rate", "write it as: rate X"),
        ("u now", "write it as: u"),
        ("rate good", "'good' is not a number"),
        ("rate 80", "a rating is from 0 to 1, not 80"),
        ("rate nan", "'nan' is not a number"),
        ("temp inf", "'inf' is not a number"),
        ("r 2.5", "'2.5' is not a whole number"),
        ("temp hot", "'hot' is not a number"),
    ],
)
def test_what_is_wrong_is_said(line: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        parse(line)


def test_no_two_commands_share_a_word() -> None:
    words = [word for form in FORMS for word in {form.short, form.name}]
    assert len(set(words)) == len(words)
    assert usage(FORMS[0]) == "u"
