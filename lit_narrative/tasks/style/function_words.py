"""Function words of English: what tells an author, and no plot."""

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
