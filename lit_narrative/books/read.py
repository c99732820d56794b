"""Books as plain text: any usual encoding and line end, without Project Gutenberg's header, licence and credits."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

from lit_narrative.errors import UserError
from lit_narrative.files import refuse_pipe

_STARS = r"^[ \t]*\*{3}[ \t]*"
# A marker may go on over lines, up to the stars that close it.
_START = re.compile(
    rf"{_STARS}START OF (?:THE|THIS) PROJECT GUTENBERG[^*]{{0,600}}\*{{3}}"
    r"|^\*+END\*?THE SMALL PRINT![^\n]{0,200}\*END\*[^\n]*",
    re.MULTILINE | re.IGNORECASE,
)
_END = re.compile(
    rf"(?:{_STARS})?\bEND OF (?:(?:THE|THIS) )?PROJECT GUTENBERG".replace(r"(?:^", r"^(?:", 1),
    re.MULTILINE | re.IGNORECASE,
)
_LICENCE = re.compile(r"^\*{3} ?START: FULL LICENSE|^This (?:and all associated )?files? should be named", re.MULTILINE)
_CREDITS = re.compile(
    r"\s*(?:\[?(?:this |the )?(?:e-?text|e-?book|HTML version)?[ ,]*(?:was )?(?:produced|transcribed|prepared|scanned)"
    r"(?: and (?:produced|proofread|proofed|edited))?(?: from[^\n]{0,120}| for[^\n]{0,80})?,? by\b"
    r"|transcribed from\b|transcriber'?s? notes?\b|HTML version by\b|note: (?:project gutenberg|images of))"
    r"[^\n]*(?:\n[^\n]+){0,12}",
    re.IGNORECASE,
)
_FIELD = re.compile(r"^(Title|Author|Language|Subject):[ \t]*([^\n]*(?:\n[ \t]+\S[^\n]*)*)", re.MULTILINE)
_NUMBER = re.compile(r"\[(?:e-?(?:book|text)) ?#?(\d{1,7})\]", re.IGNORECASE)
PASSAGE_WORDS = 200
"""Words after which a book is cut into a new passage, at the next end of a paragraph."""
_PARAGRAPH_END = re.compile(r"\n\s*\n")
_HEAD = 10_000
"""Characters within which a header names title and author."""


@dataclass(frozen=True, slots=True)
class Book:
    """A book.

    Attributes:
        id: its number in the catalogue, or the name of its file.
        title: in one line.
        author: as the source spells it; empty where it is not known.
        subjects: of the catalogue; none where there is no catalogue.
        language: such as ``en``; empty where it is not known.
        text: with line feeds alone.
        whole: whether the end of the book was seen; False where a header announces a book that then breaks off.
    """

    id: str
    title: str
    author: str
    subjects: tuple[str, ...]
    language: str
    text: str
    whole: bool = True


def read_book(path: str | Path) -> Book:
    """The book in a text file; what its header does not say is taken from the file's name.

    Raises:
        UserError: the file cannot be read, or is no text.
    """
    path = Path(path)
    refuse_pipe(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    return parse_book(decode(content, str(path)), path.stem)


def decode(content: bytes, where: str = "the text") -> str:
    """Bytes as text with line feeds alone: UTF-8, UTF-16 with its mark, cp1252 or Latin-1.

    Raises:
        UserError: it is no text; the message names ``where`` it stands.
    """
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = content.decode("utf-16", errors="replace")
    else:
        text = content.decode("utf-8-sig", errors="replace")
        # A few damaged bytes do not make UTF-8 another encoding, in which every quote would be three signs.
        other = len(text) - len(text.encode("ascii", errors="ignore"))
        if 10 * text.count("\N{REPLACEMENT CHARACTER}") > other:
            # Bytes of 0x80 to 0x9f are control characters in Latin-1, and quotes and dashes in cp1252.
            windows = any(0x80 <= byte < 0xA0 for byte in set(content))
            text = content.decode("cp1252" if windows else "latin-1", errors="replace")
    if "\0" in text:
        raise UserError(f"{where} is a binary file, not text; take it out, or name the text files' folder")
    return re.sub(r"\r*\n|\r", "\n", text) if "\r" in text else text


def parse_book(text: str, name: str = "") -> Book:
    """The book in a text, and what its header says.

    Args:
        text: with line feeds alone.
        name: for a book without header.
    """
    start = _START.search(text)
    head = text[: start.start() if start else 0]
    fields = {found[1]: " ".join(found[2].split()) for found in _FIELD.finditer(head[-_HEAD:])}
    number = _NUMBER.search(head)
    return Book(
        id=number[1] if number else name,
        title=fields.get("Title") or name,
        author=fields.get("Author", ""),
        subjects=tuple(part.strip() for part in fields.get("Subject", "").split(";") if part.strip()),
        language=_language(fields.get("Language", "")),
        text=strip_gutenberg(text),
        whole=start is None or _END.search(text, start.end()) is not None,
    )


def strip_gutenberg(text: str) -> str:
    """What stands between the header and the licence of Project Gutenberg; the whole text if it has neither."""
    start = _START.search(text)
    begin = start.end() if start else 0
    end = _END.search(text, begin) or _LICENCE.search(text, begin)
    body = text[begin : end.start() if end else None]
    if start:
        body = _without_credits(body)
    return body.strip("\n") + "\n"


def _without_credits(body: str) -> str:
    """The text without the blocks at its head that say who typed it."""
    while found := _CREDITS.match(body):
        body = body[found.end() :]
    return body


def _language(name: str) -> str:
    """``en`` for English, and so on; a name that is not known stays."""
    codes = {"english": "en", "french": "fr", "german": "de", "spanish": "es", "italian": "it", "latin": "la"}
    return codes.get(name.casefold(), name.casefold())


def book_files(path: str | Path, setting: str = "data.books") -> list[Path]:
    """The text file itself, or all ``.txt`` files under a folder, sorted.

    Args:
        path: of the file or folder.
        setting: that names it, for messages.

    Raises:
        UserError: there is none.
    """
    if path == "":  # as a path it would be the current folder
        raise UserError(f"{setting} is empty; name a folder of books, or a text file")
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{setting}: no file or folder {path} (looked in {path.resolve().parent}); check the path")
    files = sorted(file for file in path.rglob("*.txt") if file.is_file())
    if not files:
        raise UserError(f"{setting}: no .txt file under {path}; books are read from plain text")
    return files


def read_books(path: str | Path, setting: str = "data.books") -> list[Book]:
    """The books of `book_files`; one whose header names no author is by whom its folder is named after.

    Raises:
        UserError: there is no text file, or one cannot be read.
    """
    found = []
    for file in book_files(path, setting):
        book = read_book(file)
        below = file.parent != Path(path) and file != Path(path)
        found.append(book if book.author or not below else replace(book, author=file.parent.name))
    return found


def passages(text: str, least: int = PASSAGE_WORDS) -> Iterator[str]:
    """A text in parts of ``least`` words or a little more, each of whole paragraphs; the last one may be shorter."""
    waiting: list[str] = []
    words = 0
    for paragraph in _PARAGRAPH_END.split(text):
        waiting.append(paragraph)
        words += len(paragraph.split())
        if words >= least:
            yield "\n\n".join(waiting).strip()
            waiting, words = [], 0
    if words:
        yield "\n\n".join(waiting).strip()


def split_of(text: str) -> str:
    """The split that a document, or whatever else is told by its content, belongs to: eight in ten to training."""
    return {8: "val", 9: "test"}.get(int.from_bytes(text_digest(text), "big") % 10, "train")


def text_digest(text: str) -> bytes:
    """Twelve bytes by which a text is known."""
    # Lone surrogates, which a JSON escape can make, have no form in UTF-8.
    return blake2b(text.encode("utf-8", errors="backslashreplace"), digest_size=12).digest()
