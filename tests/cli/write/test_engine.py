"""What a chosen topic does to the attributes of a configuration."""

import pytest

from lit_narrative.cli.write.engine import on_topic
from lit_narrative.cli.write.session import ChosenTopic
from lit_narrative.steering.settings import Attribute

SEA = ChosenTopic("sea", {"wave": 1.0, "tide": 2.0}, ["sail"])
COLUMN = Attribute(column="bag", weight=3.0, policy="first_token")
BY_TOPIC, FIXED = Attribute(head="h.ckpt", label="topic"), Attribute(head="h.ckpt", label="positive")


@pytest.mark.parametrize(
    ("given", "result"),
    [
        ([], [Attribute(bag=dict(SEA.words))]),
        ([COLUMN], [Attribute(bag=dict(SEA.words), weight=3.0, policy="first_token")]),
        (
            [FIXED, COLUMN, Attribute(bag="love")],
            [Attribute(bag=dict(SEA.words), weight=3.0, policy="first_token"), FIXED],
        ),
        ([BY_TOPIC], [BY_TOPIC]),
        ([FIXED], [Attribute(bag=dict(SEA.words)), FIXED]),
    ],
)
def test_a_topic_takes_the_place_of_bags(given: list[Attribute], result: list[Attribute]) -> None:
    assert on_topic(given, SEA) == result
    assert on_topic(given, None) == given
