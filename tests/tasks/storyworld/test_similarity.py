"""Three levels of sameness."""

import json
import subprocess
import sys
from typing import Any

import pytest

from lit_narrative.tasks.storyworld.formats.parse import Limits
from lit_narrative.tasks.storyworld.similarity import (
    names_digest,
    shape,
    skeleton_digest,
    text_digest,
    unique_shares,
)
from lit_narrative.tasks.storyworld.world import World
from tests.tasks.storyworld.lighthouse import encounter, lighthouse, make, option, read


def text(value: Any = None) -> str:
    return json.dumps(lighthouse() if value is None else value)


def test_renamed_characters_are_the_same_but_for_names() -> None:
    renamed = text().replace("Mara", "Old Tom").replace("Teo", "Mar")
    assert text_digest(text()) != text_digest(renamed)
    assert names_digest(text()) == names_digest(renamed)
    assert skeleton_digest(text()) == skeleton_digest(renamed)


def test_a_name_within_a_word_is_not_a_name() -> None:
    mara = text().replace("This is the boat", "Ask Mara about Maraschino")
    nell = mara.replace("Ask Mara ", "Ask Nell ").replace('"Mara"', '"Nell"').replace("Mara_", "Nell_")
    assert names_digest(mara) == names_digest(nell)
    assert names_digest(mara) != names_digest(nell.replace("Maraschino", "Nellschino"))


def test_numbers_texts_and_ids_are_not_part_of_the_skeleton() -> None:
    value = lighthouse()
    value["initial_state"]["oil"] = 4
    value["encounters"][0]["text"] = "Another text."
    other = text(value).replace("wreck", "reef").replace('"value": 2', '"value": 1').replace("oil", "wood")
    assert names_digest(text()) != names_digest(other)
    assert skeleton_digest(text()) == skeleton_digest(other)


def test_the_structure_is_part_of_the_skeleton() -> None:
    for old, new in [
        ('"next_encounter": "wreck"', '"next_encounter": "dawn"'),
        ('"next_encounter": "wreck"', '"next_encounter": "nowhere"'),
        ('"next_encounter": "wreck"', '"next_encounter": null'),
        ('"comparison": ">="', '"comparison": "<"'),
        ('"variable": "oil", "change"', '"variable": "Teo_trust", "change"'),
    ]:
        assert skeleton_digest(text()) != skeleton_digest(text().replace(old, new, 1))


def test_shares_count_distinct_texts_and_distinct_worlds() -> None:
    renamed = text().replace("Mara", "Old Tom")
    moved = text().replace('"next_encounter": "wreck"', '"next_encounter": "dawn"')
    assert unique_shares([text(), text(), renamed, moved, "no world"]) == {
        "unique": 4 / 5,
        "unique_names": 2 / 4,
        "unique_skeleton": 2 / 4,
        "effective_shapes": pytest.approx(4 / 3**0.75),  # three worlds of one shape, and one of another
        "commonest_shape": 3 / 4,
        "encounters": 4.75,  # of the moved one four can follow
    }
    fenced = [f"```json\n{text()}\n```", text()]
    assert unique_shares(fenced)["unique_skeleton"] == 1  # the fenced one is no world
    assert unique_shares(fenced, Limits(strip_code_fence=True))["unique_skeleton"] == 1 / 2
    assert set(unique_shares([]).values()) == {0.0}
    assert {name: share for name, share in unique_shares(["a", "b", "{}"]).items() if share} == {
        "unique": 1.0, "unique_names": 1.0, "unique_skeleton": 1.0
    }  # fmt: skip


def test_a_shape_holds_only_what_a_play_can_show() -> None:
    hall = encounter("hall", option("go", "yard"), option("lie", "gate"), option("leave", None))
    yard, gate = encounter("yard", option("back", "hall")), encounter("gate")
    known = shape(read(make(hall, yard, gate)))
    assert known == ((1, 2, -1), (0,), ())
    assert shape(read(make(hall, gate, yard))) == known
    assert shape(read(make(hall, encounter("cellar", option("up", "hall")), yard, encounter("attic"), gate))) == known
    assert shape(read(make(hall, gate))) != known  # the yard dangles
    assert shape(World({}, {}, ())) == ()


def test_digests_are_the_same_in_another_process() -> None:
    program = (
        "import sys; from lit_narrative.tasks.storyworld.similarity import *; t = sys.stdin.read();"
        "print(text_digest(t), names_digest(t), skeleton_digest(t))"
    )
    there = subprocess.run(
        [sys.executable, "-c", program], input=text(), capture_output=True, text=True, check=True,
        env={"PYTHONHASHSEED": "5"},
    )  # fmt: skip
    assert there.stdout.split() == [text_digest(text()), names_digest(text()), skeleton_digest(text())]
