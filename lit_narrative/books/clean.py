"""Books cleaned: paragraphs and verse as the author wrote them, without what editors and typists put around them.

What goes is whole blocks between blank lines, each with a reason: front matter (title and by-line), lists of contents,
headings on lines of their own, page numbers, separators, notes of editors and transcribers, and addresses. Within a
paragraph marks of footnotes and of italics go, and spaces and quotes take one form, so that typists cannot be told
apart. A paragraph of prose becomes one line; verse keeps its lines. Dialect and the author's own brackets stay.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lit_narrative.books.read import Book

_FORMS: Mapping[str, str] = {
    **dict.fromkeys("‘’‚‛", "'"),
    **dict.fromkeys("“”„‟", '"'),
    **dict.fromkeys("\u00a0\u2009\u200a\u202f\t", " "),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad", ""),
    **dict.fromkeys("\v\u2028", "\n"),
    **dict.fromkeys("\f\u2029", "\n\n"),
    "―": "—",
}
"""Sign -> the form that it takes; quotes and spaces are straight and plain, what cannot be seen goes."""
_NOTE = re.compile(
    r"[\[{] ?(?:footnotes?|sidenote|illustrations?|picture|frontispiece|transcriber'?s? notes?|editor'?s? note|note)\b"
    r"[^\[\]{}]{0,10000}(?:\[[^\[\]{}]{0,10000}\][^\[\]{}]{0,10000}){0,5}[\]}]",
    re.IGNORECASE,
)
_FOOTNOTE = re.compile(r"(?:\A|(?<=\n\n))[ \t]*(?:\[\d{1,3}\]|\{\d{1,3}\})[ \t]+\S[^\n]*(?:\n[^\n]+)*")
_MARK = re.compile(
    r"\[(?:\d{1,3}|[*†‡]|p(?:g|age|\.)? ?\d{1,4})\]|\{(?:\d{1,4}|p(?:g|age|\.)? ?\d{1,4})\}", re.IGNORECASE
)
_ITALICS = re.compile(r"(?<!\w)_(?=\S)([^_]{1,1000}?)(?<=\S)_(?!\w)")
_BOLD = re.compile(r"(?<!\S)([*=])(?=[^\s*=])([^*=\n]{1,200})(?<=\S)\1(?![\w*=])")
_ADDRESS = re.compile(r"(?:https?://|www\.)[^\s<>\"')\]]+|\b[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64}){1,4}\b")
_NUMERAL = r"(?:[ivxlcdm]{1,8}|\d{1,4}|one|two|three|four|five|six|seven|eight|nine|ten|first|second|third|last)"
_HEADING = re.compile(
    rf"(?:the )?(?:chapter|chap\.|letter|book|volume|vol\.|part|stave|scene|act|section|canto|appendix) (?:the )?"
    rf"(?:{_NUMERAL}\b|[A-Z]\b(?=[.:]|$))",
    re.IGNORECASE,
)
_ALONE = re.compile(
    rf"[\[(]?{_NUMERAL}[\])]?[.:]?"
    r"|(?:preface|introduct(?:ion|ory)|conclusion|epilogue|prologue|appendix|notes?|finis|the end|end of [\w .]+)\.?",
    re.IGNORECASE,
)
_LIST = re.compile(
    r"(?:table of |the )?contents[.:]?|(?:list of )?illustrations[.:]?|index(?: of first lines)?\.?", re.I
)
_PAGE = re.compile(r"[ .]*\d{1,4}$")
_GAP = re.compile(r"\n\s*\n")
_WORD = re.compile(r"[^\W_]+")
_FRONT = 40
"""Blocks at the head of a book among which title and author may stand."""
_ENTRY_WORDS = 90
"""Words of an entry in a list of contents at most."""


@dataclass(frozen=True)
class Cleaned:
    """A book after cleaning.

    Attributes:
        text: paragraphs with a blank line between them.
        dropped: reason -> the blocks that are left out, as they stood.
    """

    text: str
    dropped: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def paragraphs(self) -> list[str]:
        """Paragraphs of prose, and stanzas."""
        return self.text.split("\n\n") if self.text else []


def clean_book(book: Book) -> Cleaned:
    """The text of a book, cleaned."""
    dropped: dict[str, list[str]] = defaultdict(list)
    text = _plain(book.text, dropped)
    blocks = [block for block in _GAP.split(text.strip("\n")) if block.strip()]
    start = _front_matter(blocks, book)
    dropped["front matter"] += blocks[:start]
    lines = sorted(map(len, text.split("\n")))
    width = max(lines[len(lines) * 9 // 10], 50)
    kept = [_joined(block.split("\n"), width) for block in _kept(blocks[start:], dropped)]
    return Cleaned("\n\n".join(kept), {reason: found for reason, found in dropped.items() if found})


# --- within paragraphs ------------------------------------------------------------------------------------------------


def _plain(text: str, dropped: dict[str, list[str]]) -> str:
    """The text with one form of quotes, dashes and spaces, without marks and notes."""
    for sign, form in _FORMS.items():
        text = text.replace(sign, form)
    text = re.sub("-{2,}", "—", text)
    if "[" in text or "{" in text:
        for pattern in (_NOTE, _FOOTNOTE):
            dropped["note"] += (found[0] for found in pattern.finditer(text))
            text = pattern.sub("", text)
        text = _MARK.sub("", text)
    if "_" in text:
        text = _ITALICS.sub(r"\1", text)
    if "*" in text or "=" in text:
        text = _BOLD.sub(r"\2", text)
    if "http" in text or "www." in text or "@" in text:
        dropped["address"] += _ADDRESS.findall(text)
        text = _ADDRESS.sub("", text)
    return text


def _joined(lines: Sequence[str], width: int) -> str:
    """Prose as one line; verse line by line, where what is indented far behind its line goes on with it."""
    if not _is_verse(lines, width):
        return " ".join(" ".join(lines).split())
    found: list[str] = []
    indents = [len(line) - len(line.lstrip()) for line in lines]
    for number, line in enumerate(lines):
        goes_on = number and indents[number] >= indents[number - 1] + 4 and len(lines[number - 1]) > 0.7 * width
        plain = " ".join(line.split())
        if goes_on:
            found[-1] = f"{found[-1]} {plain}"
            indents[number] = indents[number - 1]
        else:
            found.append(plain)
    return "\n".join(found)


def _is_verse(lines: Sequence[str], width: int) -> bool:
    """Whether lines end before the margin, and begin with capitals or are indented."""
    # Below 55 columns no line is full, whatever the book's width: a sonnet's lines are all about as long.
    if len(lines) < 2 or all(len(line) >= max(0.7 * width, 55) for line in lines[:-1]):
        return False
    plain = [line.lstrip().lstrip("\"'(—_[") for line in lines]
    capitals = sum(not line[:1].islower() for line in plain)
    indented = sum(line.startswith("  ") for line in lines)
    return capitals >= 0.7 * len(lines) or (indented == len(lines) and min(map(len, lines)) < 0.5 * width)


# --- blocks -----------------------------------------------------------------------------------------------------------


def _kept(blocks: Sequence[str], dropped: dict[str, list[str]]) -> Iterator[str]:
    """The blocks that the author wrote; the others go to ``dropped``."""
    number, after_heading = 0, False
    while number < len(blocks):
        block = blocks[number]
        if _LIST.fullmatch(block.strip()):
            end = _list_end(blocks, number + 1)
            dropped["contents"] += blocks[number:end]
            number, after_heading = end, False
            continue
        reason = _reason(block, after_heading)
        if reason:
            dropped[reason].append(block)
        else:
            yield block
        after_heading = reason == "heading"
        number += 1


def _reason(block: str, after_heading: bool) -> str | None:
    """Why a block is left out; None where it stays."""
    lines = block.split("\n")
    if len(lines) > 3:
        return None
    text = " ".join(block.split())
    if not any(map(str.isalnum, text)):
        return "separator"
    if text.strip("-—.[](){} ").isdecimal() and len(text) < 12:
        return "page number"
    if _ALONE.fullmatch(text) or (len(text) <= 140 and _HEADING.match(text) and not _runs_on(text)):
        return "heading"
    title = len(lines) == 1 and len(text) <= 70 and text[-1] not in ".!?,;:\"'—" and len(text.split()) <= 10
    if title and (after_heading or text.isupper()):
        return "heading"
    return None


def _runs_on(text: str) -> bool:
    """Whether what begins like a heading is a sentence: small letters follow the number."""
    rest = text[_end_of_heading(text) :].lstrip(" .:)]-—")
    return rest[:1].islower() or rest.endswith(("!", "?", ",", ";", '"'))


def _end_of_heading(text: str) -> int:
    found = _HEADING.match(text)
    return found.end() if found else 0


def _front_matter(blocks: Sequence[str], book: Book) -> int:
    """Number of blocks at the head up to the last short one that names title, author or edition."""
    known = {word.casefold() for word in _WORD.findall(f"{book.title} {book.author}") if len(word) > 3}
    end = 0
    for number, block in enumerate(blocks[:_FRONT]):
        words = _WORD.findall(block)
        if len(words) > 14 or _begins(block):
            break
        named = sum(word.casefold() in known for word in words)
        by_line = block.strip().casefold().startswith(("by ", "by\n", "edition")) or block.strip().casefold() == "by"
        if by_line or " edition" in block.casefold() or (book.author and 3 * named >= len(words) > 0):
            end = number + 1
    # Behind them another name in brackets, or the publisher in capitals.
    while 0 < end < len(blocks) and not _begins(blocks[end]):
        block = blocks[end].strip()
        if not (block.isupper() or (len(block) < 60 and block.startswith("(") and block.endswith(")"))):
            break
        end += 1
    return end


def _begins(block: str) -> bool:
    """Whether a block is the heading of a list or of a chapter."""
    text = block.strip()
    return bool(_LIST.fullmatch(text) or _HEADING.match(text) or _ALONE.fullmatch(text))


def _list_end(blocks: Sequence[str], start: int) -> int:
    """Where a list of contents ends: where its first entry comes again, a chapter begins, or a paragraph."""
    first = blocks[start].strip() if start < len(blocks) else ""
    number = start
    while number < len(blocks) and _is_entry(blocks[number]):
        block = blocks[number].strip()
        if number > start and (_key(block) == _key(first) or (_HEADING.match(block) and not _HEADING.match(first))):
            break
        number += 1
    return number


def _key(block: str) -> str:
    """What an entry and its heading have in common."""
    line = " ".join(block.strip().split("\n")[0].split())
    if found := _HEADING.match(line):
        return found[0].casefold()
    return " ".join(_WORD.findall(_PAGE.sub("", line).casefold()))


def _is_entry(block: str) -> bool:
    """Whether a block can stand in a list of contents: it begins like a heading, or all its lines are short titles."""
    if len(block.split()) > _ENTRY_WORDS and not all(_PAGE.search(line) for line in block.split("\n")[1:]):
        return False
    if _begins(block):
        return True
    lines = [line.strip() for line in block.split("\n")]
    if len(lines) == 1 and len(lines[0]) <= 45:
        return True
    titles = all(len(line) <= 66 and not line.endswith((".", ",", ";", "!", "?", '"')) for line in lines)
    return titles or all(_PAGE.search(line) for line in lines)
