"""Names of authors: the spellings of catalogues and title pages, brought together."""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from types import MappingProxyType

ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "samuel langhorne clemens": "Mark Twain",
        "samuel clemens": "Mark Twain",
        "charles lutwidge dodgson": "Lewis Carroll",
        "boz": "Charles Dickens",
        "mary ann evans": "George Eliot",
        "marian evans": "George Eliot",
        "currer bell": "Charlotte Brontë",
        "ellis bell": "Emily Brontë",
        "acton bell": "Anne Brontë",
        "miss austen": "Jane Austen",
        "geoffrey crayon": "Washington Irving",
        "diedrich knickerbocker": "Washington Irving",
        "william sydney porter": "O. Henry",
        "hector hugh munro": "Saki",
        "h. h. munro": "Saki",
        "teodor jozef konrad korzeniowski": "Joseph Conrad",
    }
)
"""Other name in small letters without accents -> the name that the books are known by."""
_YEAR = r"\d{3,4}\??(?: *BCE?)?"
_ASIDE = re.compile(rf"\([^)]*\)|\[[^\]]*\]|,? *\b{_YEAR}(?: *- *(?:{_YEAR})?)?|,? *-{_YEAR}")
_TITLE = re.compile(r"\b(?:sir|dame|lord|lady|mrs?|dr|miss|rev|baron|earl|saint)\b\.? *", re.IGNORECASE)
_SUFFIX = re.compile(r"^(?:jr|sr|ii|iii|esq|baron|earl|sir|lady|lord|saint|graf|comte|miss|mrs|dr)\b", re.IGNORECASE)


def author_name(name: str) -> str:
    """A name in the usual order, without dates, titles and what stands in brackets; an alias becomes the known name.

    ``Twain, Mark, 1835-1910``, ``Mark Twain (Samuel Clemens)`` and ``Clemens, Samuel Langhorne`` are ``Mark Twain``.
    """
    parts = [part.strip() for part in _ASIDE.sub("", name).split(",")]
    titles = [part for part in parts[1:] if _SUFFIX.match(part)]
    parts = [part for part in parts if part and part not in titles]
    plain = " ".join(" ".join([*parts[1:2], *parts[:1]]).split())
    for known in (plain, *(f"{title} {plain}" for title in titles)):
        if alias := ALIASES.get(_folded(known)):
            return alias
    return _TITLE.sub("", plain).strip() or plain


def same_author(one: str, other: str) -> bool:
    """Whether two names can be of one person: one surname, and given names of which one list has the other's in order.

    An initial stands for every name that begins with it: ``J. Austen`` is ``Jane Austen``, and ``Mary Shelley`` is
    ``Mary Wollstonecraft Shelley``.
    """
    first, second = (_folded(author_name(name)).replace(".", ". ").split() for name in (one, other))
    if not first or not second or first[-1] != second[-1]:
        return False
    short, long = sorted((first[:-1], second[:-1]), key=len)
    if not short:
        return not long
    if not _fits(short[0], long[0]):
        return False
    rest = iter(long)
    return all(any(_fits(name, found) for found in rest) for name in short)


def merge_authors(names: Iterable[str]) -> dict[str, str]:
    """Each spelling -> the name that all spellings of its author share: the longest of them in the usual order."""
    groups: list[list[str]] = []
    # The longest first, so that a short form is compared with a full one.
    for name in sorted(set(names), key=lambda name: (-len(author_name(name)), name)):
        group = next((group for group in groups if same_author(group[0], name)), None)
        if group is None:
            groups.append([name])
        else:
            group.append(name)
    return {name: author_name(group[0]) for group in groups for name in group}


def _fits(one: str, other: str) -> bool:
    """Whether two given names are the same, or one the initial of the other."""
    short, long = sorted((one.rstrip("."), other.rstrip(".")), key=len)
    return short == long or (len(short) == 1 and long.startswith(short))


def _folded(name: str) -> str:
    """A name in small letters without accents."""
    apart = unicodedata.normalize("NFKD", name.casefold())
    return "".join(letter for letter in apart if not unicodedata.combining(letter))
