"""Downloads from a real local server, with every fault that a server can have."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lit_narrative.books import download
from lit_narrative.books.download import CHECKSUMS, DownloadError, Downloads, Mirror
from lit_narrative.errors import UserError
from tests.books.mirror import Mirror as Server
from tests.books.mirror import ebook, leftovers, serving

PATH = "cache/epub/76/pg76.txt"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving({PATH: ebook(76), "1/2/123/123-0.txt": ebook(123), "1/2/124/124-0.txt": ebook(124)}) as running:
        yield running


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "FIRST_PAUSE", 0.01)


def downloads(server: Server, folder: Path, **settings: Any) -> Downloads:
    return Downloads(Mirror(server.url, **{"pause": 0.0, "timeout": 5.0, **settings}), folder)


def test_a_text_is_kept_with_its_digest_and_asked_for_once(server: Server, tmp_path: Path) -> None:
    assert downloads(server, tmp_path).text("76") == ebook(76)
    assert downloads(server, tmp_path).text("76") == ebook(76)
    assert server.asked == [PATH]
    assert set(json.loads((tmp_path / CHECKSUMS).read_text())) == {"76.txt"}


def test_a_text_that_is_not_what_its_digest_says_is_fetched_again(server: Server, tmp_path: Path) -> None:
    downloads(server, tmp_path).text("76")
    (tmp_path / "76.txt").write_bytes(b"cut off")
    assert downloads(server, tmp_path).text("76") == ebook(76)
    assert (tmp_path / "76.txt").read_bytes() == ebook(76) and len(server.asked) == 2


def test_the_layout_that_held_one_text_is_asked_first_for_the_next(server: Server, tmp_path: Path) -> None:
    some = downloads(server, tmp_path)
    some.text("123")
    before = len(server.asked)
    some.text("124")
    assert server.asked[before:] == ["1/2/124/124-0.txt"]


@pytest.mark.parametrize("fault", ["busy", "broken", "short"])
def test_what_may_pass_is_tried_again(server: Server, tmp_path: Path, fault: str) -> None:
    server.faults[PATH] = (2, fault)
    assert downloads(server, tmp_path).text("76") == ebook(76)
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("fault", "settings", "reason"),
    [
        ("broken", {"retries": 1}, r"status 500 \(attempts: 2\)"),
        ("short", {"retries": 0}, r"without sending complete message body.*attempts: 1"),
        ("hanging", {"timeout": 0.5, "retries": 5}, "attempts"),
        ("dripping", {"timeout": 0.5, "retries": 5}, r"no whole file within 0\.5 s"),
        ("page", {}, "a web page, not"),
        ("elsewhere", {}, r"redirects to 'http://example\.org/'"),
        ("understated", {"max_bytes": 100}, "longer than --max_bytes=100"),
    ],
)
def test_faults_are_bounded_and_leave_nothing(
    server: Server, tmp_path: Path, fault: str, settings: dict[str, Any], reason: str
) -> None:
    server.faults[PATH] = (100, fault)
    start = time.monotonic()
    with pytest.raises(DownloadError, match=reason):
        downloads(server, tmp_path, **settings).text("76")
    assert time.monotonic() - start < 4
    assert not (tmp_path / "76.txt").exists() and leftovers(tmp_path) == []


def test_a_text_that_no_layout_has(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="no text of this number"):
        downloads(server, tmp_path).text("9")
    assert len(server.asked) == len(download.LAYOUTS)


def test_requests_are_apart(server: Server, tmp_path: Path) -> None:
    start = time.monotonic()
    some = downloads(server, tmp_path, pause=0.15)
    some.text("76")
    some.text("123")
    assert time.monotonic() - start > 0.15 * len(server.asked)


def test_a_mirror_without_catalogue(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no pg_catalog\.csv; name the texts by --ids"):
        downloads(server, tmp_path).catalogue()


@pytest.mark.parametrize(
    "settings",
    [{"url": "ftp://example.org"}, {"url": "http://me:key@example.org"}, {"timeout": 0.0}, {"retries": -1}],
)
def test_wrong_settings_are_said(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="--"):
        Mirror(**{"url": "http://example.org", **settings})
