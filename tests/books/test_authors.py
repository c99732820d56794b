"""Names of authors in all their spellings."""

import pytest

from lit_narrative.books.authors import author_name, merge_authors, same_author


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Twain, Mark, 1835-1910", "Mark Twain"),
        ("Mark Twain (Samuel Clemens)", "Mark Twain"),
        ("Clemens, Samuel Langhorne", "Mark Twain"),
        ("Austen, Miss", "Jane Austen"),
        ("Boz", "Charles Dickens"),
        ("Wells, H. G. (Herbert George), 1866-1946", "H. G. Wells"),
        ("Doyle, Arthur Conan, Sir, 1859-1930", "Arthur Conan Doyle"),
        ("Homer, 751? BCE-651? BCE", "Homer"),
        ("Brontë, Charlotte, 1816-1855", "Charlotte Brontë"),
        ("", ""),
    ],
)
def test_the_usual_order(name: str, expected: str) -> None:
    assert author_name(name) == expected


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("J. Austen", "Austen, Jane, 1775-1817", True),
        ("Mary Shelley", "Mary Wollstonecraft (Godwin) Shelley", True),
        ("Mary Shelley", "Percy Bysshe Shelley", False),
        ("Charlotte Bronte", "Brontë, Charlotte", True),
        ("Charlotte Brontë", "Emily Brontë", False),
        ("H.G. Wells", "Herbert George Wells", True),
        ("Shelley", "Mary Shelley", False),
        ("Homer", "homer", True),
        ("", "", False),
    ],
)
def test_one_person_or_two(one: str, other: str, same: bool) -> None:
    assert same_author(one, other) == same_author(other, one) == same


def test_spellings_come_together_under_the_fullest() -> None:
    names = ["Mary Shelley", "Mary Wollstonecraft (Godwin) Shelley", "P. B. Shelley", "Percy Bysshe Shelley", "Homer"]
    merged = merge_authors(names)
    assert set(merged.values()) == {"Mary Wollstonecraft Shelley", "Percy Bysshe Shelley", "Homer"}
    assert merged["Mary Shelley"] == merged["Mary Wollstonecraft (Godwin) Shelley"]
    assert merge_authors(reversed(names)) == merged
