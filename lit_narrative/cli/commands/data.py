"""Commands that make data: ``data gutenberg`` makes cleaned books, ``data refill`` sentences for graded pairs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lit_narrative.books.authors import author_name
from lit_narrative.books.catalogue import Entry, Query, entry_of, parse_catalogue, search
from lit_narrative.books.download import DownloadError, Downloads, Mirror
from lit_narrative.books.read import Book, decode, parse_book, read_books
from lit_narrative.books.shelf import FILE, Checked, check_book, write_shelf
from lit_narrative.datamodules.style_refills import Refills
from lit_narrative.errors import UserError, check_finite, check_least
from lit_narrative.files import read_utf8
from lit_narrative.report.format import one_line

RAW = "raw"
"""Folder of what was downloaded, as it came."""


def gutenberg(
    from_: str,
    to: str = "books",
    author: Sequence[str] = (),
    ids: Sequence[str] = (),
    title: Sequence[str] = (),
    subject: Sequence[str] = (),
    language: str = "en",
    most: int | None = None,
    timeout: float = 120.0,
    max_bytes: int = 50_000_000,
    retries: int = 3,
    pause: float = 1.0,
) -> None:
    """Books of Project Gutenberg, found by author, number, title or subject, cleaned and validated, into a folder.

    Args:
        from_: URL of a mirror, or a folder of texts (with pg_catalog.csv, if it is there).
        to: folder for a text file a book, and books.jsonl with whose each is.
        author: names, in any spelling; several: books of any of them.
        ids: numbers in the catalogue; they need no catalogue.
        title: words of titles.
        subject: words of subject headings.
        language: of the books, such as en.
        most: books of an author at most, those with the lowest numbers.
        timeout: seconds for a file, all attempts together.
        max_bytes: of a file.
        retries: of a request that failed and may be sent again.
        pause: seconds between two requests.

    Raises:
        UserError: nothing is asked for, nothing fits, or no book can be used.
    """
    check_least("--most", most, 1)
    query = Query(author, _numbers(ids), title, subject, language)
    if not (query.authors or query.ids or query.titles or query.subjects):
        raise UserError("say which books: --author, --ids, --title or --subject")
    source = (
        _mirror(Mirror(from_, timeout, max_bytes, retries, pause), Path(to), query)
        if "://" in from_
        else _folder(from_)
    )
    entries = _first(search(source.entries, query), most)
    if not entries:
        raise UserError("no book fits; take out --title or --subject, or ask for another --language")
    checked = [_report(entry, _book(source, entry, language)) for entry in entries]
    taken = [one for one in checked if not one.fault]
    if not taken:
        raise UserError(f"none of {len(checked)} books can be used: {checked[0].fault}")
    write_shelf(to, taken)
    words = sum(len(one.book.text.split()) for one in taken)
    print(f"{to}: {len(taken)} of {len(checked)} books, {words} words; {Path(to) / FILE} says whose each is")


def refill(
    url: str,
    model: str,
    books: str | None = None,
    to: str = "refills.jsonl",
    words: int = 80,
    least: int | None = None,
    seed: int = 0,
    most: int | None = None,
    key_env: str | None = None,
    temperature: float = 0.7,
    timeout: float = 600.0,
) -> None:
    """Sentences of chunks written anew by a language model behind an endpoint of chat completions, for graded pairs.

    What is in the file already stays, so that a run that was stopped goes on where it was.

    Args:
        url: of the endpoint, such as http://localhost:8000/v1/chat/completions.
        model: its name at the server.
        books: folder of books, as data.books; the synthetic authors without it.
        to: file of refills, for data.refills.
        words: data.chunk_words.most of the task that reads them.
        least: data.chunk_words.least of it.
        seed: data.seed of it.
        most: chunks at most, drawn by the seed; all of them without it.
        key_env: environment variable with a key for the server.
        temperature: of the sampling.
        timeout: seconds for the sentences of 16 chunks.

    Raises:
        UserError: a number is out of range, or no chunk could be refilled.
    """
    from lit_narrative.rl.rewards.chat_client import ChatClient  # heavy, and help does without it

    check_least("--most", most, 1)
    check_finite("--", temperature=temperature)
    client = ChatClient(url, key_env=key_env, timeout=timeout, model=model, max_tokens=400, temperature=temperature)
    refills = Refills(to, books, words, least, seed, most)
    for asked in refills.fill(client):
        print(f"{to}: {len(refills.rows)} chunks; {asked} of {len(refills.left)} asked about")
    for reason, count in refills.failed.most_common(3):
        print(f"{count} sentences without answer: {one_line(reason)}")
    if not refills.rows:
        raise UserError("no chunk could be refilled: the server has no sentence for any of them that is of use")


data = {"gutenberg": gutenberg, "refill": refill}


@dataclass(frozen=True)
class _Source:
    """Where books are from.

    Attributes:
        entries: of its catalogue.
        text: the content of an entry as a book.
    """

    entries: Sequence[Entry]
    text: Callable[[Entry], Book]


def _mirror(mirror: Mirror, to: Path, query: Query) -> _Source:
    """A mirror; without a catalogue where only numbers are asked for."""
    downloads = Downloads(mirror, to / RAW)
    if query.ids and not (query.authors or query.titles or query.subjects):
        entries = [Entry(number, "", ()) for number in query.ids]
    else:
        entries = parse_catalogue(decode(downloads.catalogue(), "the catalogue"), f"the catalogue of {mirror.url}")
    return _Source(entries, lambda entry: parse_book(decode(downloads.text(entry.id), entry.id), entry.id))


def _folder(folder: str) -> _Source:
    """A folder of texts: its own catalogue where it has one, else the headers."""
    books = {book.id: book for book in read_books(folder, "--from")}
    table = Path(folder) / "pg_catalog.csv"
    entries = parse_catalogue(read_utf8(table), str(table)) if table.is_file() else [*map(entry_of, books.values())]

    def text(entry: Entry) -> Book:
        if entry.id not in books:
            raise DownloadError(f"the folder has no text of this number (texts: {len(books)})")
        return books[entry.id]

    return _Source(entries, text)


def _book(source: _Source, entry: Entry, language: str) -> Checked:
    """The book of an entry, cleaned; what the catalogue says of it wins over its header."""
    try:
        book = source.text(entry)
    except (DownloadError, UserError) as error:
        return Checked(
            Book(entry.id, entry.title, entry.authors[0] if entry.authors else "", (), "", ""), {}, str(error)
        )
    # Cleaned by the names of its own header, as they stand on its title page too.
    checked = check_book(replace(book, language=entry.language or book.language), language)
    listed = replace(
        checked.book,
        id=entry.id,
        title=entry.title or book.title,
        author=author_name(entry.authors[0] if entry.authors else book.author),
        subjects=entry.subjects or book.subjects,
    )
    return replace(checked, book=listed, notes=tuple(_differences(book, listed)))


def _differences(book: Book, listed: Book) -> Iterator[str]:
    """What header and catalogue say differently."""
    if book.title.casefold() != listed.title.casefold() and book.title != book.id:
        yield f"its header has the title '{book.title}'"
    if book.id != listed.id:
        yield f"its header has the number {book.id}"


def _report(entry: Entry, checked: Checked) -> Checked:
    """Print a line of a book."""
    book = checked.book
    named = f"{entry.id:>6}  {one_line(book.title)[:50]:<50}  {one_line(book.author)[:24]:<24}"
    if checked.fault:
        print(f"{named}  left out: {one_line(checked.fault)}")
        return checked
    dropped = ", ".join(f"{count} {reason}" for reason, count in checked.dropped.items())
    print(f"{named}  {len(book.text.split())} words; taken out: {dropped or 'nothing'}")
    for note in checked.notes:
        print(f"{'':>6}  {one_line(note)}")
    return checked


def _first(entries: Sequence[Entry], most: int | None) -> list[Entry]:
    """At most so many entries of each author, those with the lowest numbers, in order of their numbers."""
    ordered = sorted(entries, key=lambda entry: (len(entry.id), entry.id))
    counts: dict[str, int] = {}
    kept = []
    for entry in ordered:
        name = author_name(entry.authors[0]) if entry.authors else entry.id
        counts[name] = counts.get(name, 0) + 1
        if most is None or counts[name] <= most:
            kept.append(entry)
    return kept


def _numbers(ids: Sequence[str]) -> list[str]:
    """Numbers, also where commas part them, each once.

    Raises:
        UserError: one is no number.
    """
    numbers = [number for part in ids for number in part.split(",") if number]
    for number in numbers:
        if not (number.isascii() and number.isdecimal() and len(number) < 8):
            raise UserError(f"--ids: '{number}' is no number of the catalogue, such as 76")
    return list(dict.fromkeys(str(int(number)) for number in numbers))
