"""Authorial style as data: texts of authors to imitate, prompts on plots, and pairs for judges of style."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, Literal, get_args

from lit_narrative.books.read import book_files
from lit_narrative.books.shelf import read_shelf
from lit_narrative.datamodules.base import Split
from lit_narrative.datamodules.style_sets import StyleSets
from lit_narrative.errors import UserError, check_choice, check_least
from lit_narrative.files import read_utf8
from lit_narrative.tasks.style.chunks import ChunkWords
from lit_narrative.tasks.style.completeness import CompletenessSettings
from lit_narrative.tasks.style.content import ContentSettings
from lit_narrative.tasks.style.corpus import Chunk, Part, StyleCorpus, grouped, split_authors
from lit_narrative.tasks.style.masking import mask_some
from lit_narrative.tasks.style.pairs import BINS, ORIGINALS, PairMaker, check_leakage
from lit_narrative.tasks.style.plots import PREMISES, Keywords
from lit_narrative.tasks.style.prompts import StylePrompt
from lit_narrative.tasks.style.refills import read_refills, refills_of
from lit_narrative.tasks.style.rewards import StyleRewardSettings
from lit_narrative.tasks.style.synthetic import MAIN, synthetic_books, vocabulary_texts
from lit_narrative.views import Example, Labelled, Pair, Prompt

SplitBy = Literal["author", "book"]
_SPLITS: tuple[Split, ...] = ("train", "val", "test")


class StyleData(StyleSets):
    """Views ``examples`` (prompt and chunk), ``prompts``, ``pairs`` (graded, for judges) and ``labelled`` (by author).

    Chunks of a split are shown, imitated and compared in that split alone, and so are its plots. Columns of prompts:
    ``author`` and ``title`` of the sample, ``plot``, ``sample`` (the chunk that the text is to be like), ``following``
    (the chunk behind it in its book; empty at the end of a stretch), ``end`` (the line that ends a text) and ``index``.
    Every plot is asked for of each author in turn.

    Args:
        books: folder of books that ``lit-narrative data gutenberg`` wrote, or of text files (one without a header in a
            folder named after its author), or one file; None: synthetic authors.
        authors: whose texts are imitated and asked for, in any spelling; None: the two main synthetic authors, or all
            of the folder's.
        prompt: templates.
        chunk_words: size of chunks.
        plots: ``keywords`` of chunks, ``premises`` that come with the package, or a text file with one a line; those of
            val and test are not in training.
        split_by: what the pairs of val and test share none of with training: authors, or books (of an author with fewer
            than four books, the end of each).
        held_out: authors of the test's pairs with ``split_by=author``; None: drawn.
        part: half of the training chunks that training pairs are made of, so that two judges share none; None: all.
        refills: what ``lit-narrative data refill`` had a language model write for graded pairs; None: sentences of a
            third author stand in.
        graded: whether training pairs are of all scores; false: of whole chunks of one author and of two (1 and 0), for
            losses that go by who wrote a text.
        masked: share of training pairs whose texts are without their topic (content words masked), 0..1, so that a
            judge learns to do without it.
        judge: what the reward ``style`` is by, and ``judge_a`` of an evaluation: the folder that ``lit-narrative test
            --config style/judge`` wrote, or any sentence encoder, by folder or hub name, or a checkpoint of
            ``SimilarityModule``.
        judge_b: ``judge_b`` of an evaluation, which no training sees; likewise.
        window: words of the windows along which an evaluation follows a text's style, 1 or more.
        style: how likeness under the judge becomes a reward.
        content: a language model behind an endpoint that rates content; None: the share of the plot's words.
        completeness: what the reward ``completeness`` counts as complete.
        train_size: examples of training at most, 1 or more (as the other sizes); default: all.
        prompt_size: prompts of training.
        pair_size: pairs of training.
        val_size: rows of each view in validation.
        test_size: rows of each view in the test.
        seed: of the synthetic books, the splits, and the order of everything.
        **kwargs: of `TaskDataModule`.

    Raises:
        UserError: a number is out of range, a name unknown, or the books are too few.
    """

    def __init__(
        self,
        books: str | None = None,
        authors: list[str] | None = None,
        prompt: StylePrompt = StylePrompt(),  # noqa: B008 (the command line shows the default's fields)
        chunk_words: ChunkWords = ChunkWords(),  # noqa: B008
        plots: str = "keywords",
        split_by: SplitBy = "author",
        held_out: list[str] | None = None,
        part: Part | None = None,
        refills: str | None = None,
        graded: bool = True,
        masked: float = 0.5,
        judge: str | None = None,
        judge_b: str | None = None,
        window: int = 300,
        style: StyleRewardSettings = StyleRewardSettings(),  # noqa: B008
        content: ContentSettings | None = None,
        completeness: CompletenessSettings = CompletenessSettings(),  # noqa: B008
        train_size: int | None = None,
        prompt_size: int = 1000,
        pair_size: int = 2000,
        val_size: int = 200,
        test_size: int = 400,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        sizes = {"train_size": train_size, "prompt_size": prompt_size, "pair_size": pair_size}
        for name, size in {**sizes, "val_size": val_size, "test_size": test_size}.items():
            check_least(f"data.{name}", size, 1)
        check_least("data.seed", seed, 0)
        check_least("data.window", window, 1)
        check_choice("data.split_by", split_by, get_args(SplitBy))
        if held_out is not None and split_by != "author":
            raise UserError("data.held_out names authors, and data.split_by=book holds out books; leave it out")
        if not 0 <= masked <= 1:
            raise UserError(f"data.masked={masked} must be a share, 0 to 1")
        if authors == []:
            raise UserError("data.authors is empty; leave it out, or name one author or more")
        if books is not None:
            book_files(books)  # here and not at the first row: a wrong path ends the run before a model is built
        self.books, self.asked, self.prompt, self.chunk_words = books, authors, prompt, chunk_words
        self.split_by, self.held_out, self.part, self.seed = split_by, held_out, part, seed
        self.refills = None if refills is None else read_refills(refills)
        self.graded, self.masked = graded, masked
        self.judge, self.judge_b, self.window = judge, judge_b, window
        self.style, self.content, self.completeness = style, content, completeness
        self.train_size, self.prompt_size, self.pair_size = train_size, prompt_size, pair_size
        self.eval_sizes = {"val": val_size, "test": test_size}
        self.plots = plots if plots in ("keywords", "premises") else read_plots(plots)

    # --- corpus -----------------------------------------------------------------------------------------------------

    @cached_property
    def corpus(self) -> StyleCorpus:
        """All authors with their chunks."""
        books = synthetic_books(self.seed) if self.books is None else read_shelf(self.books)
        return StyleCorpus(books, self.chunk_words, self.seed)

    @cached_property
    def authors(self) -> tuple[str, ...]:
        """The authors to write like, as the corpus names them."""
        asked = self.asked or (MAIN if self.books is None else self.corpus.authors)
        return tuple(dict.fromkeys(map(self.corpus.find_author, asked)))

    # --- views ------------------------------------------------------------------------------------------------------

    def examples(self, split: Split) -> list[Example]:
        """Prompts with the chunks that answer them; the sample of a few-shot prompt is another chunk of the author."""
        chunks = [chunk for chunk in self.corpus.of(split) if chunk.author in self.authors]
        samples = {author: found for author, found in grouped(chunks, "author").items()}
        # In an order by the seed, so that the first n examples are of all authors.
        Random(f"examples {self.seed}").shuffle(chunks)
        return [self._example(chunk, samples[chunk.author]) for chunk in chunks[: self._size(split, self.train_size)]]

    def prompts(self, split: Split) -> list[Prompt]:
        """Plots of the split to write about, each in the style of every author in turn."""
        plots, authors = self.plots_of(split), self.authors
        samples = {author: self._shuffled(self.corpus.of(split, author)) for author in authors}
        count = min(self._size(split, self.prompt_size) or 0, len(plots) * len(authors))
        return [
            self._prompt(plots[n // len(authors)], samples[authors[n % len(authors)]], n // len(authors), n)
            for n in range(count)
        ]

    def pairs(self, split: Split) -> list[Pair]:
        """Graded pairs of chunks: equally many of every score and subject.

        Raises:
            UserError: the splits share an author, a chunk or a sentence.
        """
        return self._pairs[split]

    def labelled(self, split: Split) -> list[Labelled]:
        """Chunks with the number of their author in `label_names`."""
        chunks = self._shuffled(self.corpus.of(split))[: self._size(split, self.train_size)]
        return [Labelled(chunk.text, self.label_names.index(chunk.author)) for chunk in chunks]

    @property
    def label_names(self) -> tuple[str, ...]:
        """All authors of the corpus."""
        return self.corpus.authors

    def tokenizer_texts(self) -> Iterable[str]:
        """Every word of the grammars and of the prompts; of books the training chunks of all authors, too."""
        yield self.prompt.close(self.prompt.fill("", "", "a, b and c", ""))
        if self.books is None:
            yield from vocabulary_texts()
        else:
            yield from self.authors
            yield from (chunk.text for chunk in self._shuffled(self.corpus.of("train")))

    # --- plots ------------------------------------------------------------------------------------------------------

    def plots_of(self, split: Split) -> list[str]:
        """The plots of a split, each once, in an order by the seed; none is in two splits."""
        return self._plots[split]

    @cached_property
    def _plots(self) -> dict[Split, list[str]]:
        if self.plots == "keywords":
            found = {split: [self.keywords(chunk.text) for chunk in self.corpus.of(split)] for split in _SPLITS}
        else:
            found = _dealt(list(PREMISES) if isinstance(self.plots, str) else self.plots, self.seed)
        plots: dict[Split, list[str]] = {}
        for split in _SPLITS:
            known = {plot for other in plots.values() for plot in other}
            new = [plot for plot in dict.fromkeys(found[split]) if plot and plot not in known]
            plots[split] = self._shuffled(new)
        return plots

    @cached_property
    def keywords(self) -> Keywords:
        """Makes plots of texts."""
        chunks = grouped(self.corpus.chunks, "author")
        return Keywords({author: [chunk.text for chunk in found] for author, found in chunks.items()})

    # --- pairs ------------------------------------------------------------------------------------------------------

    @cached_property
    def author_splits(self) -> dict[str, str]:
        """Author -> split of the pairs with ``split_by=author``."""
        held_out = None if self.held_out is None else [self.corpus.find_author(name) for name in self.held_out]
        return split_authors(self.corpus, self.authors, held_out)

    @cached_property
    def _pairs(self) -> dict[Split, list[Pair]]:
        refills = None if self.refills is None else refills_of(self.refills, self.corpus.chunks)
        pairs: dict[Split, list[Pair]] = {}
        for number, split in enumerate(_SPLITS):
            maker = PairMaker(self._pair_chunks(split), 3 * self.seed + number, refills)
            scores = BINS if self.graded or split != "train" else ORIGINALS
            pairs[split] = maker.pairs(self._size(split, self.pair_size) or 0, scores)
            if not pairs[split]:
                raise UserError(f"data.books: no pair of chunks can be made for {split}; give more books or authors")
        for split in ("val", "test"):
            apart = self.split_by == "author" and split in self.author_splits.values()
            check_leakage(pairs["train"], pairs[split], apart, split)
        return pairs | {"train": mask_some(pairs["train"], self.masked, self.seed)}

    def _pair_chunks(self, split: Split) -> list[Chunk]:
        """The chunks that pairs of a split are made of."""
        chunks = self.corpus.chunks
        if self.split_by == "author" and split in self.author_splits.values() and split != "train":
            return [chunk for chunk in chunks if self.author_splits[chunk.author] == split]
        known = [c for c in chunks if self.split_by == "book" or self.author_splits[c.author] == "train"]
        wanted = [chunk for chunk in known if chunk.split == split]
        return [chunk for chunk in wanted if self.part is None or split != "train" or chunk.part == self.part]

    # --- rows -------------------------------------------------------------------------------------------------------

    def _example(self, chunk: Chunk, others: Sequence[Chunk]) -> Example:
        rng = Random(f"sample {self.seed} {chunk.name}")
        sample = rng.choice([other for other in others if other.title != chunk.title] or [*others])
        if sample is chunk:  # the only chunk there is
            sample = others[others.index(chunk) - 1]
        prompt = self.prompt.fill(chunk.author, chunk.title, self.keywords(chunk.text), sample.text)
        meta = {"author": chunk.author, "title": chunk.title, "chunk": chunk.number}
        return Example(prompt, self.prompt.close(chunk.text), meta)

    def _prompt(self, plot: str, samples: Sequence[Chunk], turn: int, index: int) -> Prompt:
        chunk = samples[turn % len(samples)]
        columns = {
            "author": chunk.author,
            "title": chunk.title,
            "plot": plot,
            "sample": chunk.text,
            "following": self._following.get(chunk.name, ""),
            "end": self.prompt.end,
            "index": index,
        }
        return Prompt(self.prompt.fill(chunk.author, chunk.title, plot, chunk.text), columns)

    @cached_property
    def _following(self) -> dict[str, str]:
        """Name of a chunk -> the text that goes on behind it, in the same split."""
        chunks = sorted(self.corpus.chunks, key=lambda chunk: (chunk.author, chunk.title, chunk.number))
        return {
            one.name: two.text
            for one, two in pairwise(chunks)
            if (one.author, one.title, one.number + 1, one.split) == (two.author, two.title, two.number, two.split)
        }

    def _shuffled(self, rows: Iterable[Any]) -> list[Any]:
        found = list(rows)
        Random(f"order {self.seed}").shuffle(found)
        return found

    def _size(self, split: Split, train: int | None) -> int | None:
        return self.eval_sizes.get(split, train)


def read_plots(path: str) -> list[str]:
    """The plots of a text file, one a line, each once.

    Raises:
        UserError: there is no such file, or it has fewer than three.
    """
    if not Path(path).is_file():
        raise UserError(f"data.plots: there is no file {path}; give one, or `keywords` or `premises`")
    plots = list(dict.fromkeys(line.strip() for line in read_utf8(Path(path)).split("\n") if line.strip()))
    if len(plots) < 3:
        raise UserError(f"data.plots: {path} has {len(plots)} plots; training, validation and test need one each")
    return plots


def _dealt(plots: Sequence[str], seed: int) -> dict[Split, list[str]]:
    """Plots in splits: a tenth, one at least, is validation, a fifth the test."""
    ordered = list(plots)
    Random(f"plots {seed}").shuffle(ordered)
    val, test = max(len(ordered) // 10, 1), max(len(ordered) // 5, 1)
    return {"val": ordered[:val], "test": ordered[val : val + test], "train": ordered[val + test :]}
