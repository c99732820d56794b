"""The page in a real browser: worlds are played to their endings by clicking, and hostile texts stay texts.

Needs the extra ``browser`` and Chromium, found on the path or named by ``LIT_CHROMIUM``.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lit_narrative.files import write_jsonl
from lit_narrative.report.page import write_report
from lit_narrative.tasks.storyworld.report.page import make_report
from lit_narrative.tasks.storyworld.simulator.play import all_paths
from tests.report.check_page import ATTACK
from tests.tasks.storyworld.report.test_player import option, sound_text, world_of

pytestmark = pytest.mark.browser
OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
"""A browser that sends nothing of its own, and runs in a container."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra 'browser'")
    program = os.environ.get("LIT_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("Chromium is neither on the path nor named by LIT_CHROMIUM")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=program, args=list(OPTIONS))
        yield opened
        opened.close()


def shown(browser: Any, out: Path, texts: list[str], width: int = 1200) -> tuple[Any, list[str]]:
    """The report of a run whose final policy wrote ``texts``, and what the browser complains of."""
    rows = [
        {"prompt": f"p{index}", "text": text, "reward": 0.9, "components": {}, "issues": [], "finished": True}
        for index, text in enumerate(texts)
    ]
    write_jsonl(out / "test_final" / "samples" / "test.jsonl", rows)
    path = write_report(out, make_report(out))
    page, complaints = browser.new_page(viewport={"width": width, "height": 900}), []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.append(request.url) if request.url.startswith("http") else None)
    page.goto(path.as_uri())
    return page, complaints


def follow(box: Any, positions: list[int]) -> None:
    box.get_by_role("button", name="Restart").click()
    for position in positions:
        box.locator(".choices button").nth(position).click()


def test_both_worlds_are_played_to_each_of_their_endings(browser: Any, out: Path) -> None:
    texts = [sound_text(0), sound_text(200)]
    page, complaints = shown(browser, out, texts)
    assert page.locator(".player").count() == 2
    for number, text in enumerate(texts):
        box, world = page.locator(".player").nth(number), world_of(text)
        plays = {one.ending: one for one in all_paths(world) if one.outcome == "ending"}
        assert len(plays) >= 2
        for ending, play in plays.items():
            follow(box, [step.choice for step in play.steps if step.choice is not None])
            assert f"You came to “{ending}”." in box.locator(".end").inner_text()
            state = dict(zip(box.locator("dt").all_inner_texts(), box.locator("dd").all_inner_texts(), strict=True))
            assert {name: float(value.split()[0]) for name, value in state.items()} == play.state
        assert "endings found: " + ", ".join(plays) in box.locator(".bar").inner_text()
    assert not complaints


def test_a_closed_option_says_why_and_cannot_be_taken(browser: Any, out: Path) -> None:
    scenes = [
        {"id": "a", "text": "Start.", "options": [option("a", effects=[("x", 1)]), option("b", [("x", ">=", 2)])]},
        {"id": "b", "text": "End.", "options": []},
    ]
    page, _ = shown(browser, out, [json.dumps({"initial_state": {"x": 0.1}, "encounters": scenes})])
    box = page.locator(".player").first
    closed = box.locator(".choices li").nth(1)
    assert closed.locator("button").is_disabled()
    assert closed.locator("small").inner_text() == "closed: needs x ≥ 2 (it is 0.1)"
    follow(box, [0, 0])
    assert box.locator("dd").inner_text() == "2.1 (+1)"
    box.get_by_role("button", name="Back").click()
    assert closed.locator("button").is_disabled() and box.locator("dd").inner_text() == "1.1 (+1)"
    follow(box, [0, 0, 1])
    assert "The end." in box.locator(".end").inner_text()


def test_hostile_texts_are_shown_as_texts(browser: Any, out: Path) -> None:
    attack = "</script><script>document.title='taken'</script><img src=http://example.org/x onerror=alert(1)>" + ATTACK
    names = {"__proto__": 1, attack: 2, "constructor": 3}
    first = {
        "id": attack,
        "text": attack * 30,
        "options": [option("__proto__", [(attack, "==", 2)], [("__proto__", 4)])],
    }
    first["options"][0]["text"] = attack
    scenes = [first, {"id": "__proto__", "text": "\u202eend", "options": []}]
    page, complaints = shown(browser, out, [json.dumps({"initial_state": names, "encounters": scenes})], width=390)
    box = page.locator(".player").first
    assert box.locator("p.scene").inner_text().startswith("</script><script>")
    follow(box, [0])
    assert "You came to “__proto__”." in box.locator(".end").inner_text()
    assert box.locator("dd").first.inner_text() == "5 (+4)"
    assert "taken" not in page.title() and not complaints and page.locator("img").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") == 390
