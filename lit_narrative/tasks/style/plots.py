"""Plots: what a text is to be about, with nothing of an author's style in it."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import log

from lit_narrative.tasks.style.masking import FUNCTION_WORDS

KEYWORDS = 3
"""Words of a plot that is made of a text."""
# Small letters throughout: names of characters, which give the source away, begin with a capital.
_WORD = re.compile(r"(?<![\w'’-])[a-z]{4,}(?![\w'’-])")
PREMISES = tuple(
    """
    a boy who finds a map in his late uncle's boat
    a widow who lets her attic to a stranger without luggage
    two brothers who inherit one horse
    a clerk who is praised for another man's work
    a girl who hides a wounded soldier in a barn
    a schoolmaster who cannot read
    a wager between a judge and a thief
    a village that waits for a train that never stops
    a letter that arrives forty years late
    a captain who sails with no crew he can trust
    a wedding at which the wrong guest speaks
    a miser who gives away one coin a day
    a doctor who falls ill with what he cures
    a dog that belongs to three families
    a lighthouse keeper who sees a light at sea
    a picnic that ends in a flood
    a boarding house where nobody pays
    a sermon that was meant for one listener
    a runaway who comes upon a travelling circus
    a duel that both men wish to lose
    a garden that a rich neighbour wants to buy
    a child who is taken for somebody else's
    a gambler who promises to stop after one more game
    a house that is said to be haunted, and the boys who sleep there
    a seamstress who finds a bank note in a coat
    a quarrel over a fence
    a fever in a mining town
    an old actor who plays his last part
    a niece who is sent to be improved by her aunt
    a bridge that the whole county builds and nobody dares to cross
    a prisoner who is set free by mistake
    a merchant who buys a lame mule from an honest man
    a night on a river in fog
    an engagement that everyone knows of but the bride
    a hunter who spares a fox
    a pair of boots that pass from owner to owner
    a governess with a secret past
    a debt that is paid with a song
    a snowstorm that shuts strangers in an inn
    a stolen pie and a false confession
    a painter who is asked for an honest portrait
    a sister who returns after ten years
    an invention that frightens its maker
    a funeral that the dead man attends
    a poor relation who comes into a fortune
    a ferryman who will not take money
    a feud that two children end
    a teacher who loses her voice
    a treasure that is found by the wrong people
    a last walk through a town before it is drowned by a dam
    """.strip().split("\n    ")
)
"""Fifty premises."""


class Keywords:
    """Makes plots of texts: their words that are rarest elsewhere.

    A word counts if it has no capital, is no function word, and stands in texts of two authors and in one of 200 texts,
    so that it tells of no author and is not odd.

    Args:
        texts: author -> texts.
    """

    def __init__(self, texts: Mapping[str, Sequence[str]]) -> None:
        found = {author: [set(_content(text)) for text in every] for author, every in texts.items()}
        self._count = sum(map(len, found.values()))
        self._texts = Counter(word for every in found.values() for words in every for word in words)
        self._authors = Counter(word for every in found.values() for word in set().union(*every))
        self._needed, self._least = min(2, len(found)), max(2, self._count // 200)

    def __call__(self, text: str) -> str:
        """The plot of a text, as ``anchor, captain and island``; empty for a text without such words."""
        return listed(self.words(text))

    def words(self, text: str) -> list[str]:
        """The words of a plot, at most `KEYWORDS`, in order of the alphabet."""
        counts = Counter(_content(text))
        known = [w for w in counts if self._authors[w] >= self._needed and self._texts[w] >= self._least]
        best = sorted(known, key=lambda word: (-counts[word] * log(self._count / self._texts[word]), word))
        return sorted(best[:KEYWORDS])


def listed(words: Sequence[str]) -> str:
    """Words as a list in a sentence."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def plot_words(plot: str) -> list[str]:
    """The content words of a plot, in order, each once."""
    return list(dict.fromkeys(word for word in _WORD.findall(plot.lower()) if word not in FUNCTION_WORDS))


def _content(text: str) -> Iterable[str]:
    return (word for word in _WORD.findall(text) if word not in FUNCTION_WORDS)
