"""Poems of a plain text: which lines are verse, where a poem begins, and which lines belong together.

The rules, in the order in which they apply to the blocks between blank lines:

- A number alone on its line (roman or arabic) begins a section of the titled poem that is open; without one, a poem.
- A heading is up to four lines in capitals; a title with a number in brackets; ``by`` a name; one or two lines behind a
  wide gap, or one behind another heading and two blank lines, if they end in no comma or colon. It ends a poem and
  names the next. What is under CONTENTS is left out.
- A wide gap ends a poem too: two blank lines; three in a text that mostly has three or more where it has two. A line
  of asterisks or dashes is one.
- Verse begins its lines with capitals, or is narrow. Other blocks are prose and end a poem. In a text that is mostly
  prose, verse is what is indented as well.
- A line that is indented by four columns more than the long line before it continues that line.
- A poem has two lines or more, without a title three, amid prose four.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from statistics import median

# Each pattern reads a character a bounded number of times: a line may be as long as a file.
_NOTE = re.compile(
    r"^[ \t]*\[[^\]\n]*(?:\n[^\S\n]*[^\s\]][^\]\n]*){0,3}\][ \t]*\n"
    r"|(?<=\S)[ \t]+\[[^\]\n]{0,500}\][ \t]*$",
    re.MULTILINE,
)
_BREAK = re.compile(r"[ \t]*(?:<\|endoftext\|>|[*_~=#•–—-](?:[ \t]*[*_~=#•–—-]){2,})[ \t]*")
# The lookahead refuses the empty text, which every later part of the pattern allows.
_ROMAN = r"(?=[MDCLXVI])M{0,3}(?:CM|CD|D?C{0,4})(?:XC|XL|L?X{0,4})(?:IX|IV|V?I{0,4})"
_NUMBER = re.compile(rf"[\[(]?(?:{_ROMAN}|[0-9]{{1,4}})[\])]?\.?")
_NUMBERED_TITLE = re.compile(rf"[\[(](?:{_ROMAN}|[0-9]{{1,4}})[\])]\s+\S.*")
_BY_LINE = re.compile(r"[Bb]y(?: [A-Z][\w.'’]*){2,4}")
_PAGE = re.compile(r"(?:\s\s|[. ]{3})[0-9ivxlc]+\Z|\A\s*page\Z", re.IGNORECASE)
_LINE_NUMBER = re.compile(r"(?<!\s)\s{3,}[0-9]{1,4}$")
_FIRST_LETTER = re.compile(r"[^\W\d_]")
_LISTS = {"contents", "table of contents", "index", "index of first lines", "list of illustrations", "illustrations"}
_NARROW, _WIDE, _TITLE = 50, 55, 60
"""Columns: verse in small letters is no wider, a line that is continued no narrower, a title no wider."""
_RULED = 9
"""Blank lines that a ruled line counts for."""


@dataclass(frozen=True, slots=True)
class Poem:
    """A poem.

    Attributes:
        title: its heading; empty without one.
        stanzas: their lines, without indentation.
        source: name of the file it stands in.
    """

    title: str
    stanzas: tuple[tuple[str, ...], ...]
    source: str = ""

    @property
    def lines(self) -> tuple[str, ...]:
        """All lines, in order."""
        return tuple(line for stanza in self.stanzas for line in stanza)

    @property
    def text(self) -> str:
        """Lines one below the other, an empty one between stanzas."""
        return "\n\n".join("\n".join(stanza) for stanza in self.stanzas)


@dataclass(frozen=True, slots=True)
class Block:
    """Lines between blank ones.

    Attributes:
        lines: with their indentation.
        gap: blank lines before it.
    """

    lines: tuple[str, ...]
    gap: int


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a text is set.

    Attributes:
        prose: whether most of it is prose.
        gap: blank lines that part two poems.
    """

    prose: bool
    gap: int


@dataclass
class _Open:
    """The poem that is being read.

    Attributes:
        title: its heading, or its number.
        numbered: whether a number is all the heading it has.
        stanzas: read so far.
        listing: whether it is a table of contents.
    """

    title: str = ""
    numbered: bool = False
    stanzas: list[tuple[str, ...]] = field(default_factory=list)
    listing: bool = False


def find_poems(text: str, source: str = "") -> list[Poem]:
    """The poems of a text in order; none where there is no verse.

    Args:
        text: without a publisher's header and licence.
        source: for `Poem.source`.
    """
    parts = list(blocks(text))
    layout = _Layout(_mostly_prose(parts), _wide_gap(parts))
    poems, current = [], _Open()
    for block in parts:
        following = _next(block, current, layout)
        if following is not current:
            poems.append(current)
            current = following
    poems.append(current)
    return [Poem(poem.title, tuple(poem.stanzas), source) for poem in poems if _is_poem(poem, layout)]


def blocks(text: str) -> Iterator[Block]:
    """What stands between blank lines; a first line in capitals is a separate block.

    Editors' notes in brackets are left out; a ruled line is a wide gap.
    """
    lines: list[str] = []
    gap = _RULED
    for line in [*_NOTE.sub("", text.expandtabs()).splitlines(), ""]:
        ruled = _BREAK.fullmatch(line) is not None
        if line.strip() and not ruled:
            lines.append(line.rstrip())
            continue
        if lines:
            # A title set directly above its first line; a poem all in capitals is not taken apart.
            title = lines[0].isupper() and len(lines) > 1 and not lines[1].isupper()
            if title:
                yield Block((lines[0],), gap)
            yield Block(tuple(lines[title:]), 0 if title else gap)
            lines, gap = [], 0
        gap += _RULED if ruled else 1


def _next(block: Block, current: _Open, layout: _Layout) -> _Open:
    """The poem that is open behind a block: the one that was, with the block in it, or another."""
    if _NUMBER.fullmatch(block.lines[0].strip()):
        rest = Block(block.lines[1:], 0)
        # Far below a title that has no line yet, such as the book's, a number begins a poem and not a section.
        section = current.title and not current.numbered and (block.gap < layout.gap or current.stanzas)
        opened = current if section else _Open(block.lines[0].strip(), numbered=True)
        # A number may stand directly above its lines, without a blank one between.
        return _next(rest, opened, layout) if rest.lines else opened
    if _is_heading(block, current, layout):
        title = " ".join(line.strip() for line in block.lines)
        return _Open(title, listing=title.lower().strip(" .:") in _LISTS)
    if current.listing:
        return current
    if not _is_verse(block, layout):
        return _Open()
    if block.gap >= layout.gap and current.stanzas:
        current = _Open()
    current.stanzas.append(tuple(_joined(block.lines)))
    return current


def _is_heading(block: Block, current: _Open, layout: _Layout) -> bool:
    text = " ".join(line.strip() for line in block.lines)
    if len(block.lines) > 4 or any(len(line.strip()) > _TITLE for line in block.lines):
        return False
    if text.isupper() or _NUMBERED_TITLE.fullmatch(text) or _BY_LINE.fullmatch(text):
        return True
    below = current.title and not current.stanzas and block.gap >= 2 and len(block.lines) == 1
    return bool(below or (block.gap >= layout.gap and len(block.lines) <= 2)) and text[-1] not in ",;:-–—"


def _is_verse(block: Block, layout: _Layout) -> bool:
    lines = [line for line in block.lines if _FIRST_LETTER.search(line)]
    if not lines or sum(_PAGE.search(line) is not None for line in lines) * 2 >= len(lines):
        return False
    if layout.prose and _indent(block) < 1:
        return False
    # Joined first: what is turned over begins in small letters and would count as prose.
    joined = list(_joined(tuple(lines)))
    return _capital_share(joined) >= 0.75 or max(map(len, joined)) <= _NARROW


def _mostly_prose(parts: Iterable[Block]) -> bool:
    """Whether most lines are of paragraphs: filled to a width, whatever word begins a line."""
    lines = [line for block in parts if len(block.lines) > 1 for line in block.lines]
    return bool(lines) and _capital_share(lines) < 0.5 and median(map(len, lines)) > _WIDE


def _wide_gap(parts: Iterable[Block]) -> int:
    """Blank lines that part poems: more than two where that is the habit of the text."""
    wide = [block.gap for block in parts if 2 <= block.gap < _RULED]
    # By the median: a few wide gaps, as around chapters, do not make a habit.
    return 3 if wide and median(wide) >= 2.5 else 2


def _is_poem(poem: _Open, layout: _Layout) -> bool:
    least = 4 if layout.prose else 2 if poem.title else 3
    return sum(map(len, poem.stanzas)) >= least


def _joined(lines: tuple[str, ...]) -> Iterator[str]:
    """Lines without indentation, marks of emphasis and line numbers; what was turned over is joined again."""
    line, indent, before = "", 0, 0
    for raw in lines:
        text, columns = _LINE_NUMBER.sub("", raw.strip()).replace("_", ""), len(raw) - len(raw.lstrip())
        if line and columns >= indent + 4 and before >= _WIDE:
            # A hyphen at the end of a line is kept: it may belong to a compound.
            line += text if line.endswith("-") else f" {text}"
        else:
            if line:
                yield line
            line, indent = text, columns
        before = len(raw)
    yield line


def _capital_share(lines: list[str]) -> float:
    """Share of lines whose first letter is a capital."""
    letters = [match.group() for line in lines if (match := _FIRST_LETTER.search(line))]
    return sum(letter.isupper() for letter in letters) / max(len(letters), 1)


def _indent(block: Block) -> int:
    return min(len(line) - len(line.lstrip()) for line in block.lines)
