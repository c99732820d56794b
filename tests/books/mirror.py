"""A mirror of books as a real local HTTP server, with the faults that servers have."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TEXT = "\n\n".join(f"It was night number {n}, and the captain slept in the boat." for n in range(40))


def ebook(number: int, title: str = "The Night", author: str = "Ann Mariner") -> bytes:
    """A book of Project Gutenberg."""
    return (
        f"The Project Gutenberg EBook of {title}, by {author}\n\nTitle: {title}\n\nAuthor: {author}\n\n"
        f"Release Date: May, 1998 [EBook #{number}]\n\nLanguage: English\n\n"
        f"*** START OF THIS PROJECT GUTENBERG EBOOK {title.upper()} ***\n\n{title.upper()}\n\nby {author}\n\n"
        f"(A. M. Boatman)\n\n{TEXT}\n\n"
        f"End of the Project Gutenberg EBook of {title}\n\n*** END OF THIS PROJECT GUTENBERG EBOOK ***\n"
    ).encode()


class Mirror(ThreadingHTTPServer):
    """Serves ``files``; what a path of ``faults`` names happens as often as it says, then the file is served.

    Attributes:
        files: path -> content.
        faults: path -> how often, and which fault.
        asked: paths, in order.
    """

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.asked = files, list[str]()
        self.faults: dict[str, tuple[int, str]] = {}

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients go away, as they should."""


class _Handler(BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        self.server.asked.append(path := self.path.strip("/"))
        left, fault = self.server.faults.get(path, (0, ""))
        if left:
            self.server.faults[path] = (left - 1, fault)
            getattr(self, f"_{fault}")(self.server.files.get(path, b""))
        elif path in self.server.files:
            self._reply(self.server.files[path])
        else:
            self._reply(b"none", 404)

    def _reply(self, content: bytes, status: int = 200, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content) if length is None else length), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def _busy(self, content: bytes) -> None:
        self._reply(b"", 503, Retry_After="0")

    def _broken(self, content: bytes) -> None:
        self._reply(b"", 500)

    def _short(self, content: bytes) -> None:
        self._reply(content[:-200], length=len(content))

    def _understated(self, content: bytes) -> None:
        self._reply(content, length=len(content) - 300)

    def _hanging(self, content: bytes) -> None:
        self._reply(content[:10], length=len(content))
        self.rfile.read(1)  # until the client closes

    def _dripping(self, content: bytes) -> None:
        self._reply(b"", length=10**6)
        while True:
            self.wfile.write(b" ")
            time.sleep(0.02)

    def _page(self, content: bytes) -> None:
        self._reply(b"<!DOCTYPE html><html>Sorry</html>")

    def _elsewhere(self, content: bytes) -> None:
        self._reply(b"", 302, Location="http://example.org/")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Mirror]:
    """A mirror that runs."""
    server = Mirror(files)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def leftovers(folder: Path) -> list[str]:
    """Files that were not meant to stay."""
    return [path.name for path in folder.rglob("*") if path.name.startswith(".")]
