"""The writer of Twee: texts that mean nothing to SugarCube, and the same endings when its macros are followed."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lit_narrative.errors import UserError
from lit_narrative.tasks.storyworld.formats.twee import escaped, write_twee
from lit_narrative.tasks.storyworld.world import World
from tests.tasks.storyworld.formats.test_ink import HOSTILE, WORLDS
from tests.tasks.storyworld.lighthouse import beacon, lighthouse, read
from tests.tasks.storyworld.reference_play import every_path

PLAYER = Path(__file__).with_name("twee_player.js")


def passages(text: str) -> dict[str, str]:
    parts = re.split(r"(?m)^:: ", text)[1:]
    return {part.split("\n", 1)[0]: part.split("\n", 1)[1] for part in parts}


def test_text_means_nothing_to_sugarcube() -> None:
    assert escaped("$x [[a|b]] <<if>> __u__") == (
        "&#36;x &#91;&#91;a&#124;b&#93;&#93; &#60;&#60;if&#62;&#62; &#95;&#95;u&#95;&#95;"
    )
    assert escaped(":: passage") == "&#58;&#58; passage"
    assert not set(escaped(HOSTILE)) & set('$[]<>{}|*~/\\"')


def test_every_link_leads_to_a_passage_and_the_start_is_one() -> None:
    found = passages(write_twee(read(lighthouse())))
    links = re.findall(r'<<(?:link "[^"]*"|include) "([^"]*)">>', "\n".join(found.values()))
    assert len(links) == 16
    assert set(links) <= set(found)
    assert json.loads(found["StoryData"])["start"] == "k0_storm"
    assert found["StoryInit"].startswith("<<set $v0_Mara_trust to 0.1>>")


def test_what_twee_cannot_say_is_refused() -> None:
    with pytest.raises(UserError, match="Twee cannot say"):
        write_twee(read(beacon()))


@pytest.mark.parametrize("world", WORLDS, ids=range(len(WORLDS)))
def test_its_macros_come_to_the_same_endings(world: World, tmp_path: Path) -> None:
    """Followed by a short program of ours: there is no SugarCube without a browser."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    (tmp_path / "world.twee").write_text(write_twee(world), encoding="utf-8")
    command = ["node", str(PLAYER), str(tmp_path / "world.twee")]
    result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    expected = sorted((len(taken), ending or "") for taken, ending in every_path(world))
    assert sorted(map(tuple, json.loads(result.stdout))) == expected
