"""Texts without their topic: content words replaced by a sign for their kind, function words and punctuation kept.

After POSNoise (Halvani and Graner 2021), with its signs. POSNoise keeps function words by list, and asks a tagger for
the kind of the others only. Here their ending and shape tell it: a tagger needs a model that is downloaded, and its
choices change with its release, while an examination must give the same figures wherever it is repeated.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from random import Random

from lit_narrative.views import Pair

_WORDS = """
    a an the this that these those such same other another each every either neither both all any some no none few
    many more most much several enough own i me my mine myself we us our ours ourselves you your yours yourself
    yourselves thou thee thy thine thyself ye he him his himself she her hers herself it its itself they them their
    theirs themselves one oneself who whom whose which what whoever whatever whichever whosoever whatsoever somebody
    something someone anybody anything anyone nobody nothing everybody everything everyone am is are was were be
    been being have has had having hath hast do does did done doing doth dost shall will would should may might must
    can could ought need dare used wouldst shouldst wert art not never nor nay yes yea no and or but if than because
    as until while whilst of at by for with about against between betwixt into through during before after above
    below to from up down in out on off over under upon within without beneath beside besides beyond among amongst
    amid amidst along across around behind toward towards near since till throughout unto underneath again further
    then once here there when whenever where wherever why how however therefore thus hence thence whence whereupon
    whereby wherein whereas though although yet still also too very quite rather so just only even ever almost
    nearly perhaps maybe indeed really merely scarcely hardly already always often sometimes seldom soon now
    presently lately afterwards meanwhile otherwise else instead moreover furthermore nevertheless notwithstanding
    accordingly consequently except save unless lest whether like unlike well away back forth together apart don't
    doesn't didn't won't wouldn't shan't shouldn't can't couldn't mustn't isn't aren't wasn't weren't hasn't haven't
    hadn't ain't i'm i'll i've i'd you're you'll you've he's he'll he'd she's she'll she'd it's we're we'll they're
    they'll that's there's what's let's o' 'tis 'twas
"""
FUNCTION_WORDS = frozenset(_WORDS.split())
"""Determiners, pronouns, auxiliaries, prepositions, conjunctions and adverbs of no content, in small letters."""
NOUN, NAME, VERB, ADJECTIVE, ADVERB, NUMBER = "#", "§", "Ø", "@", "©", "µ"
SIGNS = (NOUN, NAME, VERB, ADJECTIVE, ADVERB, NUMBER)
"""One sign a kind of content words."""
ENDINGS = (
    (ADVERB, re.compile(r"..ly$")),
    (VERB, re.compile(r"..(?:ing|ed|ise|ize|eth)$")),
    (ADJECTIVE, re.compile(r"..(?:ous|ful|ive|able|ible|ical|ish|less|est|ic|al)$")),
)
"""Kinds by the ending of a word in small letters, the first that fits; what fits none is a noun."""
# A word with what is hung on by apostrophes (kept apart: `Tom's`), a number, or a sign that ends a sentence.
_TOKEN = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|\d+(?:[.,]\d+)*|[.!?]+|\n\s*\n")


def mask(text: str) -> str:
    """The text with every content word replaced by the sign of its kind; all else stands as it was."""
    opens, parts, done = True, [], 0  # whether a sentence opens: there every word has a capital
    for match in _TOKEN.finditer(text):
        parts.append(text[done : match.start()])
        token, done = match.group(), match.end()
        if token[0].isalpha():
            parts.append(_masked(token, opens))
            opens = False
        elif token[0].isdigit():
            parts.append(NUMBER)
            opens = False
        else:
            parts.append(token)
            opens = True
    return "".join([*parts, text[done:]])


def mask_some(pairs: Sequence[Pair], share: float, seed: int) -> list[Pair]:
    """The pairs, of which a share has both texts masked, so that a judge learns to do without the topic.

    Args:
        pairs: in any order.
        share: in 0..1.
        seed: of the choice.
    """
    chosen = set(Random(f"masked {seed}").sample(range(len(pairs)), round(share * len(pairs))))
    return [
        replace(pair, text=mask(pair.text), other=mask(pair.other)) if number in chosen else pair
        for number, pair in enumerate(pairs)
    ]


def content_words(text: str) -> list[str]:
    """The words of a text that are masked, in small letters and in order."""
    tokens = (match.group() for match in _TOKEN.finditer(text))
    return [_plain(token).partition("'")[0] for token in tokens if token[0].isalpha() and not _is_function(token)]


def _plain(token: str) -> str:
    return token.casefold().replace("’", "'")


@lru_cache(maxsize=65_536)
def _is_function(token: str) -> bool:
    plain = _plain(token)
    # `that'd` is in no list, but what it begins with is.
    return plain in FUNCTION_WORDS or ("'" in plain and plain.partition("'")[0] in FUNCTION_WORDS)


def _masked(token: str, opens: bool) -> str:
    if _is_function(token):
        return token
    stem = re.split("['’]", token, maxsplit=1)[0]
    return (NAME if stem[0].isupper() and not opens else kind_of(stem)) + token[len(stem) :]


@lru_cache(maxsize=65_536)
def kind_of(word: str) -> str:
    """The sign of a content word, by its ending."""
    return next((sign for sign, ending in ENDINGS if ending.search(word.casefold())), NOUN)
