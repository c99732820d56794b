"""Books cleaned and cut into chunks per second on one core: ``python -m benchmarks.books [FOLDER]``.

Target: at least 5 MB a second for both together. Without a folder the books are synthetic ones, set in lines of 72
columns with a header and a licence. Prints the best of five rounds in CPU time, so that a busy machine does not change
the figure.
"""

import sys
import textwrap
import time
from collections.abc import Callable

from lit_narrative.books.clean import clean_book
from lit_narrative.books.read import Book, parse_book, read_books
from lit_narrative.tasks.style.chunks import ChunkWords, chunks_of
from lit_narrative.tasks.style.synthetic import synthetic_books

HEADER = "Title: {}\n\nAuthor: {}\n\n*** START OF THIS PROJECT GUTENBERG EBOOK ***\n\n"
LICENCE = "\n\n*** END OF THIS PROJECT GUTENBERG EBOOK ***\n"


def made_books() -> list[Book]:
    """Synthetic books as typists set them."""
    return [parse_book(typeset(book), book.id) for book in synthetic_books()]


def typeset(book: Book) -> str:
    """A book in lines of 72 columns, with chapters, header and licence."""
    paragraphs = book.text.split("\n\n")
    lines = [textwrap.fill(text, 72) for text in paragraphs]
    chapters = ["\n\n".join(lines[start : start + 8]) for start in range(0, len(lines), 8)]
    body = "".join(f"\n\n\nCHAPTER {number}.\n\n{text}" for number, text in enumerate(chapters, 1))
    return f"{HEADER.format(book.title, book.author)}{body}{LICENCE}"


def seconds(work: Callable[[], object]) -> float:
    """Fewest CPU seconds of five rounds."""
    found = []
    for _ in range(5):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found)


def main() -> None:
    """Print MB a second of cleaning, of chunking, and of both."""
    books = read_books(sys.argv[1]) if len(sys.argv) > 1 else made_books()
    size = sum(len(book.text.encode()) for book in books) / 1e6
    cleaned = [clean_book(book).text for book in books]
    cleaning = seconds(lambda: [clean_book(book) for book in books])
    print(
        f"{len(books)} books, {size:.1f} MB\n{'words a chunk':<16}{'cleaning':>10}{'chunking':>10}{'both':>10}   MB/s"
    )
    for words in (500, 1000, 3000):
        chunking = seconds(lambda most=words: [chunks_of(text, ChunkWords(most)) for text in cleaned])  # type: ignore[misc]
        both = cleaning + chunking
        print(f"{words:<16}{size / cleaning:>10.1f}{size / chunking:>10.1f}{size / both:>10.1f}")


if __name__ == "__main__":
    main()
