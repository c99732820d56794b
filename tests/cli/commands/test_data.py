"""``lit-narrative data`` as a person calls it, with real local servers and from folders."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lit_narrative.books.shelf import FILE, read_shelf
from lit_narrative.cli.main import main
from lit_narrative.datamodules.style import StyleData
from lit_narrative.errors import UserError
from tests.books.mirror import ebook, leftovers, serving

CATALOGUE = (
    b"Text#,Type,Issued,Title,Language,Authors,Subjects,LoCC,Bookshelves\n"
    b'7,Text,1998,The Night,en,"Mariner, Ann, 1801-1870",Sea stories,PR,\n'
    b'8,Text,1998,The Sea,en,"Mariner, Ann, 1801-1870",Sea stories,PR,\n'
    b'9,Text,1998,The Land,en,"Farmer, Bob",,PR,\n'
)
FILES = {
    "pg_catalog.csv": CATALOGUE,
    "files/7/7-0.txt": ebook(7),
    "files/8/8-0.txt": ebook(8, "The Sea Again"),
    "files/9/9-0.txt": ebook(9, "The Land", "Bob Farmer"),
}
QUICK = ["--pause=0", "--timeout=5", "--retries=0"]


def test_books_of_an_author_from_a_mirror(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = tmp_path / "books"
    with serving(dict(FILES)) as server:
        main(["data", "gutenberg", "--from", server.url, "--to", str(to), "--author", "A. Mariner", *QUICK])
        asked = len(server.asked)
        main(["data", "gutenberg", "--from", server.url, "--to", str(to), "--author", "A. Mariner", *QUICK])
        assert len(server.asked) == asked  # nothing is fetched twice
    shown = capsys.readouterr().out
    assert "2 of 2 books" in shown and "its header has the title 'The Sea Again'" in shown
    books = read_shelf(to)
    assert [(book.id, book.title, book.author, book.subjects) for book in books] == [
        ("7", "The Night", "Ann Mariner", ("Sea stories",)),
        ("8", "The Sea", "Ann Mariner", ("Sea stories",)),
    ]
    # The name in brackets stands on the title page alone, and goes with it.
    assert all(book.text.startswith("It was night number 0") and "Gutenberg" not in book.text for book in books)
    assert leftovers(tmp_path) == []


def test_what_fails_is_said_and_the_rest_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving({**FILES, "files/8/8-0.txt": ebook(8)[:-300]}) as server:
        server.faults["files/7/7-0.txt"] = (9, "broken")
        main(["data", "gutenberg", "--from", server.url, "--to", str(tmp_path), "--ids", "7,8", "9", "10", *QUICK])
        assert "pg_catalog.csv" not in server.asked
    shown = capsys.readouterr().out.splitlines()
    reasons = [line.partition("left out: ")[2] for line in shown if "left out" in line]
    assert reasons[0] == "status 500 (attempts: 1)" and reasons[1].startswith("it breaks off")
    assert reasons[2] == "the mirror has no text of this number"
    assert "1 of 4 books" in shown[-1]
    assert [json.loads(line)["id"] for line in (tmp_path / FILE).read_text().splitlines()] == ["9"]


def test_from_a_folder(tmp_path: Path) -> None:
    source, to = tmp_path / "texts", tmp_path / "books"
    source.mkdir()
    for number in (7, 8):
        (source / f"{number}.txt").write_bytes(ebook(number))
    (source / "9.txt").write_bytes(ebook(9, "The Land", "Bob Farmer"))
    main(["data", "gutenberg", "--from", str(source), "--to", str(to), "--author", "Mariner, Ann", "--most=1"])
    assert [book.id for book in read_shelf(to)] == ["7"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say which books"),
        (["--ids", "x1"], "'x1' is no number"),
        (["--ids", "5"], "no text 5 among the 1"),
        (["--author", "Ann Marinier"], "did you mean 'Ann Mariner'"),
        (["--title", "Land"], "no book fits"),
        (["--title", "Night", "--language", "fr"], "no book fits"),
        (["--title", "Night", "--most", "0"], "--most is 0"),
    ],
)
def test_wrong_questions_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (tmp_path / "7.txt").write_bytes(ebook(7))
    with pytest.raises(SystemExit):
        main(["data", "gutenberg", "--from", str(tmp_path), "--to", str(tmp_path / "to"), *arguments])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "to").exists()


class Teacher(BaseHTTPRequestHandler):
    """Writes a sentence of its own; every 25th request fails where the path says so."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        counts = self.server.counts  # type: ignore[attr-defined]
        counts.append(asked["temperature"])
        fails = self.path == "/failing" and len(counts) % 25 == 0
        body = json.dumps({"choices": [{"message": {"content": "It was so, the teacher wrote."}}]}).encode()
        self.send_response(400 if fails else 200)
        self.send_header("Content-Length", "0" if fails else str(len(body)))
        self.end_headers()
        self.wfile.write(b"" if fails else body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def teacher() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Teacher)
    server.counts = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_refills_go_on_where_they_were_and_make_pairs(
    teacher: ThreadingHTTPServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "refills.jsonl"
    url = f"http://127.0.0.1:{teacher.server_port}"
    main(["data", "refill", f"{url}/failing", "m", "--to", str(to), "--most=20"])
    some = len(to.read_text().splitlines())
    assert 0 < some < 20 and "sentences without answer: the server answered with status 400" in capsys.readouterr().out
    main(["data", "refill", url, "m", "--to", str(to), "--most=60"])
    made = len(to.read_text().splitlines())
    assert 55 < made <= 60
    asked = len(teacher.counts)  # type: ignore[attr-defined]
    main(["data", "refill", url, "m", "--to", str(to), "--most=60"])
    assert len(teacher.counts) == asked and set(teacher.counts) == {0.7}  # type: ignore[attr-defined]
    pairs = StyleData(refills=str(to), pair_size=40, split_by="book", masked=0).pairs("train")
    mixtures = [pair for pair in pairs if "mixed" in pair.meta["kind"]]
    assert mixtures
    assert all("the teacher wrote." in text for pair in mixtures for text in (pair.text, pair.other))
    with pytest.raises(UserError, match=r"data\.refills: none of its \d+ rows"):
        StyleData(refills=str(to), seed=1).pairs("train")


def test_a_teacher_that_is_of_no_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(
            ["data", "refill", "http://127.0.0.1:1", "m", "--to", str(tmp_path / "r.jsonl"), "--most=1", "--timeout=1"]
        )
    assert "no chunk could be refilled" in capsys.readouterr().err


def test_a_temperature_below_zero_is_refused_before_the_server_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["data", "refill", "http://127.0.0.1:1", "m", "--temperature", "-1"])
    assert "--temperature=-1.0 must be a number of 0 or more" in capsys.readouterr().err
