"""``lit-narrative enrich``: passages of a corpus beside the encounters of a world that they are near to in meaning."""

import sys
from pathlib import Path

from lit_narrative.cli.arguments import printable
from lit_narrative.errors import UserError
from lit_narrative.files import write_text
from lit_narrative.tasks.storyworld.enrichment import enrich_world
from lit_narrative.tasks.storyworld.formats.read import FILE_LIMITS, read_any
from lit_narrative.tasks.storyworld.formats.write import write_world
from lit_narrative.tasks.storyworld.world_files import read_world_file


def enrich(
    file: str,
    corpus: str,
    out: str | None = None,
    encoder: str | None = None,
    words: int = 60,
    least: float = 0.2,
    cache: str | None = None,
) -> None:
    """Add to each encounter of a world the passage of a corpus that is nearest to its text; the world plays as before.

    Args:
        file: a world in the simple format or of SweepWeave; it is written in the one that it has.
        corpus: a folder of *.txt, or one such file.
        out: the file to write, one that exists is replaced; by default the world goes to standard output.
        encoder: a sentence-transformers folder or hub name; by default one is built from the corpus.
        words: of a passage at most.
        least: lowest cosine of a passage that is used, -1 to 1.
        cache: folder of the indexes; by default ~/.cache/lit-narrative/passages.

    Raises:
        UserError: A file cannot be read, it is no world, or there is no passage.
    """
    from lit_narrative.lm.passages import CACHE, Passages, PassageSettings  # torch takes seconds: `--help` does without

    if out is not None and Path(out).exists() and Path(file).exists() and Path(out).samefile(file):
        raise UserError(f"--out is '{out}', the file that is enriched; give another name")
    reading = read_any(read_world_file(file, FILE_LIMITS.max_chars))
    if reading.world is None or not reading.world.encounters:
        raise UserError(f"'{file}' is no world with encounters; `lit-narrative check` says what is wrong")
    passages = Passages.open(PassageSettings(corpus, encoder, words, least, cache or CACHE))
    world, count = enrich_world(
        reading.world, lambda texts, most: [[one.text for one in row] for row in passages.nearest(texts, most)]
    )
    text = write_world(world, "simple" if reading.dialect == "simple" else "sweepweave")
    if out is None:
        print(text, end="")
    else:
        print(f"wrote {printable(str(write_text(out, text)))}")
    # Beside the text, which may go to another program.
    print(f"{count} of {len(world.encounters)} encounters have a passage", file=sys.stderr)
