"""Texts downloaded from a mirror: politely, bounded in time, size and retries, kept with their digests.

A folder keeps what was downloaded, and ``checksums.json`` the digest of each file; a run that was stopped goes on where
it was, and a file that is not what its digest says is fetched again.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import httpx2

from lit_narrative.errors import UserError, check_least
from lit_narrative.files import read_json, write_bytes, write_json

CHECKSUMS = "checksums.json"
RETRIED = {408, 429, 500, 502, 503, 504}
"""Status codes after which the same file may be asked for again."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before the second attempt, each further pause twice as long; and the longest that a server may ask for."""
LAYOUTS: tuple[Callable[[str], str], ...] = (
    lambda number: f"cache/epub/{number}/pg{number}.txt",
    lambda number: f"files/{number}/{number}-0.txt",
    lambda number: f"{_aleph(number)}/{number}/{number}-0.txt",
    lambda number: f"{_aleph(number)}/{number}/{number}.txt",
    lambda number: f"{_aleph(number)}/{number}/{number}-8.txt",
    lambda number: f"{number}-0.txt",
    lambda number: f"{number}.txt",
)
"""Where mirrors have the text of a number."""
CATALOGUES = ("pg_catalog.csv", "cache/epub/feeds/pg_catalog.csv", "feeds/pg_catalog.csv")


class DownloadError(Exception):
    """Why a file could not be had; it says nothing of other files."""


class _BusyError(Exception):
    """A failure that another attempt may mend.

    Attributes:
        pause: seconds that the server asks to wait, 0 where it asks nothing.
    """

    def __init__(self, message: str, pause: float = 0.0) -> None:
        super().__init__(message)
        self.pause = pause


@dataclass(frozen=True)
class Mirror:
    """A server with texts.

    No redirect is followed. What is longer than the bound, or shorter than the server says, is not taken.

    Args:
        url: http or https, without user info.
        timeout: seconds for one file, all attempts together.
        max_bytes: of one file.
        retries: of a request that failed and may be sent again.
        pause: seconds between two requests.

    Raises:
        UserError: a setting is out of range, or the URL is not one.
    """

    url: str
    timeout: float = 120.0
    max_bytes: int = 50_000_000
    retries: int = 3
    pause: float = 1.0
    _client: httpx2.Client = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, least in (("max_bytes", 1), ("retries", 0)):
            check_least(f"--{name}", getattr(self, name), least)
        if not 0 < self.timeout < float("inf") or not 0 <= self.pause < float("inf"):
            raise UserError(f"--timeout={self.timeout} must be above 0 seconds, and --pause={self.pause} 0 or more")
        try:
            url = httpx2.URL(self.url)
        except httpx2.InvalidURL as error:
            raise UserError(f"--from: '{self.url}' is not a URL ({error})") from error
        if url.scheme not in ("http", "https") or not url.host or url.userinfo:
            raise UserError(f"--from: '{self.url}' must be http:// or https:// with a host, and no user info")
        # `identity`: a few kB of gzip may hold 1 GB, and the bound is on what arrives.
        headers = {"Accept-Encoding": "identity", "User-Agent": "lit-narrative (research; one request at a time)"}
        object.__setattr__(self, "_client", httpx2.Client(headers=headers))

    def get(self, path: str) -> bytes | None:
        """The content of a file; None where there is none.

        Raises:
            DownloadError: it cannot be had.
        """
        deadline, cause = time.monotonic() + self.timeout, "the server was silent"
        for attempt in range(self.retries + 1):
            try:
                return self._ask(path, deadline)
            except (httpx2.TransportError, _BusyError) as error:
                cause = str(error) or type(error).__name__
                asked = error.pause if isinstance(error, _BusyError) else 0.0
            wait = max(FIRST_PAUSE * 2**attempt, min(asked, LONGEST_PAUSE))
            if attempt == self.retries or time.monotonic() + wait > deadline:
                break
            time.sleep(wait)
        raise DownloadError(f"{cause} (attempts: {attempt + 1})")

    def _ask(self, path: str, deadline: float) -> bytes | None:
        """One attempt.

        Raises:
            DownloadError: the answer would be the same another time.
            _BusyError: it may be another one later.
        """
        left = deadline - time.monotonic()
        time.sleep(max(min(self.pause, left - 1), 0))
        url = f"{self.url.rstrip('/')}/{path}"
        with self._client.stream("GET", url, timeout=max(min(left, 20.0), 0.1), follow_redirects=False) as reply:
            if reply.status_code in (404, 410):
                return None
            if reply.status_code in RETRIED:
                asked = reply.headers.get("Retry-After", "")
                raise _BusyError(f"status {reply.status_code}", float(asked) if asked.isdecimal() else 0.0)
            if 300 <= reply.status_code < 400:
                where = reply.headers.get("Location", "nowhere")
                raise DownloadError(f"the server redirects to '{where}', which is not followed; give the final URL")
            if reply.status_code != 200:
                raise DownloadError(f"status {reply.status_code}")
            return self._read(reply, deadline)

    def _read(self, reply: httpx2.Response, deadline: float) -> bytes:
        length = reply.headers.get("Content-Length", "")
        content = bytearray()
        for chunk in reply.iter_raw():
            content += chunk
            if len(content) > self.max_bytes or (length.isdecimal() and int(length[:18]) > self.max_bytes):
                raise DownloadError(f"the file is longer than --max_bytes={self.max_bytes}")
            if time.monotonic() > deadline:
                raise _BusyError(f"no whole file within {self.timeout:g} s")
        if content[:200].lstrip().lower().startswith((b"<!doctype html", b"<html")):
            raise DownloadError("the server answers with a web page, not with a text")
        return bytes(content)


@dataclass
class Downloads:
    """Texts of a mirror by number, kept in a folder.

    Args:
        mirror: to ask.
        folder: that keeps them.
    """

    mirror: Mirror
    folder: Path
    _layout: int = 0

    def text(self, number: str) -> bytes:
        """The text of a number, from the folder where it is there.

        Raises:
            DownloadError: the mirror has no such text, or fails.
        """
        if (kept := self._kept(f"{number}.txt")) is not None:
            return kept
        for layout in self._layouts():
            content = self.mirror.get(LAYOUTS[layout](number))
            if content is not None:
                self._layout = layout
                return self._keep(f"{number}.txt", content)
        raise DownloadError("the mirror has no text of this number")

    def catalogue(self) -> bytes:
        """The mirror's catalogue.

        Raises:
            UserError: it has none, or fails.
        """
        if (kept := self._kept("pg_catalog.csv")) is not None:
            return kept
        try:
            for path in CATALOGUES:
                if (content := self.mirror.get(path)) is not None:
                    return self._keep("pg_catalog.csv", content)
        except DownloadError as error:
            raise UserError(f"--from: the catalogue of {self.mirror.url} cannot be had: {error}") from error
        raise UserError(f"--from: {self.mirror.url} has no {CATALOGUES[0]}; name the texts by --ids")

    def _layouts(self) -> Iterator[int]:
        """All layouts, first the one that the last text was found in."""
        yield self._layout
        yield from (number for number in range(len(LAYOUTS)) if number != self._layout)

    def _kept(self, name: str) -> bytes | None:
        path = self.folder / name
        if not path.is_file() or name not in (known := self._checksums()):
            return None
        content = path.read_bytes()
        return content if sha256(content).hexdigest() == known[name] else None

    def _keep(self, name: str, content: bytes) -> bytes:
        write_bytes(self.folder / name, content)
        write_json(self.folder / CHECKSUMS, {**self._checksums(), name: sha256(content).hexdigest()})
        return content

    def _checksums(self) -> dict[str, str]:
        path = self.folder / CHECKSUMS
        found = read_json(path) if path.is_file() else {}
        return found if isinstance(found, dict) else {}


def _aleph(number: str) -> str:
    """The folders of a number on older mirrors: each digit but the last."""
    return "/".join(number[:-1]) or "0"
