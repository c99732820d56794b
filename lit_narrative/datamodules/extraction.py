"""Activations of a model on a corpus, read into tables that a verbalizer learns from: ``lit-narrative extract``."""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

import numpy as np

from lit_narrative.errors import UserError, check_least
from lit_narrative.files import atomic_folder
from lit_narrative.tasks.verbalize.corpora import LEAST, Corpus, file_corpus, story_corpus
from lit_narrative.tasks.verbalize.evaluation.controls import shuffled as other_documents
from lit_narrative.tasks.verbalize.prompts import (
    ACTOR_TEMPLATE,
    CLOSE,
    CRITIC_TEMPLATE,
    OPEN,
    PLAIN_TEMPLATE,
    ActorPrompt,
    CriticPrompt,
    answer,
)
from lit_narrative.tasks.verbalize.sidecar import SPLITS, Sidecar, SplitRecord, marker_ids
from lit_narrative.tasks.verbalize.table import ActivationTable, TableRow, TableWriter
from lit_narrative.tasks.verbalize.teachers import Kind, Place, Teacher, TeacherSettings, make_teacher
from lit_narrative.views import prompt_text

if TYPE_CHECKING:  # torch and Lightning take seconds, and `--help` does without
    from lit_narrative.datamodules.task import Split, Task
    from lit_narrative.lm.load import Dtype
    from lit_narrative.lm.vectors.activations import DocumentActivation, ExtractionSettings

Device = Literal["auto", "cpu", "cuda"]
STORIES = {"train": 1000, "val": 100, "test": 100}
"""Documents of each split of a corpus without end."""
QUESTION = (
    "A language model has read the text below up to its end. Say in two or three short phrases what it holds in mind "
    "at the last word: what the text is about, its kind, and what the last word means there. Answer by the phrases "
    "alone.\n\n{source}"
)
"""What a model behind an endpoint is asked."""
_TAG = re.compile(r"</?explanation>")
logger = logging.getLogger(__name__)
_PART = 512  # activations that the teacher gets at a time


@dataclass(frozen=True)
class Extraction:
    """What is read, and how it is written down; the arguments of ``lit-narrative extract`` say more of each.

    Args:
        model: whose activations.
        layer: whose output.
        documents: of the split ``train`` at most.
        eval_documents: of ``val`` and of ``test`` at most.
        positions_per_document: tokens of each at most.
        min_position: first token that may be read.
        max_tokens: of a document.
        shuffled: each row gets the vector of another document's.
        tags: whether answers stand between tags; None: where the tokenizer can write them.
        actor_template: with ``{marker}``; None: the package's.
        critic_template: with ``{explanation}``; None: the package's.
        marker: text of the marker token; None: chosen.
        batch_size: documents a forward pass.
        device: where the model runs.
        dtype: of its weights.
        seed: of the choice of tokens.
        trust_remote_code: run the code that the model brings along.

    Raises:
        UserError: a number is out of range, or a template lacks its place.
    """

    model: str
    layer: int
    documents: int | None = None
    eval_documents: int | None = None
    positions_per_document: int = 10
    min_position: int = 8
    max_tokens: int | None = None
    shuffled: bool = False
    tags: bool | None = None
    actor_template: str | None = None
    critic_template: str | None = None
    marker: str | None = None
    batch_size: int = 32
    device: Device = "auto"
    dtype: "Dtype" = "float32"
    seed: int = 0
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        check_least("--documents", self.documents, 2)
        check_least("--eval_documents", self.eval_documents, 2)
        CriticPrompt(self.critic_template or CRITIC_TEMPLATE)
        if self.actor_template is not None:
            ActorPrompt(self.actor_template)

    @property
    def places(self) -> "ExtractionSettings":
        """Where activations are read.

        Raises:
            UserError: a number is out of range.
        """
        from lit_narrative.lm.vectors.activations import ExtractionSettings

        return ExtractionSettings(
            self.layer, self.min_position, self.positions_per_document, self.max_tokens, self.batch_size, self.seed
        )


class Lesson(NamedTuple):
    """The texts to imitate.

    Attributes:
        teach: gives the text of each place.
        source: where they come from, in words.
    """

    teach: Teacher
    source: str


def write_activations(to: str, job: Extraction, corpus: Corpus, lesson: Lesson) -> Sidecar:
    """Read the activations of a corpus into a new folder: three tables, and the sidecar that says what they hold.

    Raises:
        UserError: the model, its layer or its tokenizer does not do, or a split has too few documents.
    """
    # Before the model is loaded, which takes longest.
    corpus.check()
    settings = job.places
    reader = _Reader(job, settings)
    tags = reader.tags(job.tags)
    prompt, ids = reader.prompt(job.actor_template or (ACTOR_TEMPLATE if tags else PLAIN_TEMPLATE), job.marker)
    with atomic_folder(to) as folder:
        for split in SPLITS:
            most = job.documents if split == "train" else job.eval_documents
            found = reader.read(corpus.documents(split, most or (STORIES[split] if corpus.endless else None)))
            _write(folder / f"{split}.parquet", reader.width, _rows(found, lesson.teach, prompt.text, tags))
        tables = {split: _checked(folder / f"{split}.parquet", corpus.name) for split in SPLITS}
        _check_disjoint(tables)
        norm = float(np.linalg.norm(tables["train"].vectors.astype(np.float64), axis=1).mean())
        if job.shuffled:
            for split, table in tables.items():
                _write(folder / f"{split}.parquet", reader.width, _exchanged(table, job.seed))
        sidecar = Sidecar(
            model=job.model,
            layer=job.layer,
            width=reader.width,
            min_position=job.min_position,
            positions_per_document=job.positions_per_document,
            corpus=corpus.name,
            teacher=lesson.source,
            seed=job.seed,
            shuffled=job.shuffled,
            mean_norm=norm,
            marker=prompt.marker,
            marker_id=ids[0],
            neighbours=ids[1:],
            actor_template=prompt.template,
            critic_template=job.critic_template or CRITIC_TEMPLATE,
            splits={split: SplitRecord.of(table.column("document")) for split, table in tables.items()},
            tags=tags,
        )
        sidecar.save(folder)
    return sidecar


# --- corpora and teachers ---------------------------------------------------------------------------------------------


def make_corpus(name: str, seed: int, task: "Task | None" = None) -> Corpus:
    """The corpus of a name.

    Args:
        name: ``stories``, a file or a folder; or of a configuration.
        seed: of stories.
        task: the configuration's, whose examples are read in its own splits, prompt and completion together.

    Raises:
        UserError: there are no such files, or the task has no examples.
    """
    if task is None:
        return story_corpus(seed) if name == "stories" else file_corpus(name)
    task.view("examples", "train")  # a task without examples fails now

    def read(split: str) -> Iterator[str]:
        return (prompt_text(row.prompt) + row.completion for row in task.view("examples", cast("Split", split)))

    return Corpus(name, read)


def make_lesson(
    kind: str,
    words: int,
    last: int,
    file: str | None,
    seed: int,
    endpoint: str | None,
    model: str | None,
    key: str | None,
) -> Lesson:
    """The teacher of ``lit-narrative extract``; its arguments of those names say more.

    Raises:
        UserError: a setting is missing, or of another teacher.
    """
    if kind != "endpoint":
        if endpoint or model or key:
            raise UserError(f"--endpoint is of --teacher=endpoint, and --teacher is {kind}; leave one out")
        settings = TeacherSettings(cast("Kind", kind), words, last, file)
        return Lesson(make_teacher(settings, seed), str(settings))
    if endpoint is None or model is None:
        raise UserError("--teacher=endpoint needs --endpoint, a URL, and --endpoint_model")
    from lit_narrative.rl.rewards.base import Lost
    from lit_narrative.rl.rewards.chat_client import ChatClient

    client = ChatClient(endpoint, key_env=key, timeout=600.0, model=model)

    def teach(places: Sequence[Place]) -> list[str | None]:
        texts = client.complete([QUESTION.format(source=place.source) for place in places])
        if lost := [text for text in texts if isinstance(text, Lost)]:
            logger.warning("%d of %d texts of the endpoint are missing: %s", len(lost), len(texts), lost[0])
        # Tags and line breaks of its own would break the form of the answer.
        plain = [None if isinstance(text, Lost) else " ".join(_TAG.sub(" ", text).split()) for text in texts]
        return [text or None for text in plain]

    return Lesson(teach, f"{model} at {endpoint}")


# --- tables -----------------------------------------------------------------------------------------------------------


class _Reader:
    """A model whose activations are read.

    Args:
        job: the model, and how it runs.
        settings: what is read.
    """

    def __init__(self, job: Extraction, settings: "ExtractionSettings") -> None:
        import torch

        from lit_narrative.lm.load import base_lm
        from lit_narrative.lm.threads import choose_threads, threads_are_given
        from lit_narrative.lm.vectors.activations import check_layer
        from lit_narrative.lm.vectors.reconstructor import truncate
        from lit_narrative.steering.factory import read_policy

        lm, self.tokenizer = read_policy(job.model, job.dtype, trust_remote_code=job.trust_remote_code)
        check_layer(lm, settings.layer, "--layer")
        where = ("cuda" if torch.cuda.is_available() else "cpu") if job.device == "auto" else job.device
        if settings.layer:
            truncate(lm, settings.layer)  # what comes behind is never read
        self.lm, self.settings = lm.to(where).eval(), settings
        if not threads_are_given():
            choose_threads(base_lm(self.lm))
        self.width: int = base_lm(lm).config.get_text_config().hidden_size

    def tags(self, asked: bool | None) -> bool:
        """Whether answers stand between tags.

        Raises:
            UserError: they are to, and the tokenizer cannot write them.
        """
        ids = self.tokenizer.encode(answer("."), add_special_tokens=False)
        written = str(self.tokenizer.decode(ids, skip_special_tokens=True))
        able = all(tag in written for tag in (OPEN, CLOSE))
        if asked and not able:
            raise UserError(
                "--tags=true: the model's tokenizer cannot write the explanation tags, so that no answer could be "
                "read; leave it out"
            )
        return able if asked is None else asked

    def prompt(self, template: str, marker: str | None) -> tuple[ActorPrompt, tuple[int, int, int]]:
        """The actor's prompt, and the ids of its marker and of the tokens beside it.

        Raises:
            UserError: the tokenizer does not read the marker as one token there.
        """
        from lit_narrative.lm.vectors.inject import choose_marker, marker_id

        prompt = ActorPrompt(template, marker or choose_marker(self.tokenizer))
        if marker_id(self.tokenizer, prompt.marker) is None:
            self.tokenizer.add_tokens([prompt.marker], special_tokens=True)  # as it will be for the actor
        if (ids := marker_ids(self.tokenizer, prompt)) is None:
            raise UserError(
                f"--marker {prompt.marker!r} is not read as one token in the actor's prompt; leave it out, or put "
                "other signs beside it in --actor_template"
            )
        return prompt, ids

    def read(self, documents: Iterable[str]) -> "Iterator[DocumentActivation]":
        """Activations of documents."""
        from lit_narrative.lm.vectors.activations import extract_activations

        return extract_activations(self.lm, self.tokenizer, documents, self.settings)


def _rows(found: "Iterator[DocumentActivation]", teach: Teacher, prompt: str, tags: bool) -> Iterator[TableRow]:
    """Rows of a table, without those that the teacher has no text for."""
    while part := list(islice(found, _PART)):
        texts = teach([Place(one.document, one.position, one.source) for one in part])
        for one, text in zip(part, texts, strict=True):
            if text is not None:
                columns = {
                    "document": one.document,
                    "position": one.position,
                    "token": one.token,
                    "source": one.source,
                }
                yield TableRow(prompt, answer(text, tags) if text else "", one.vector, columns)


def _exchanged(table: ActivationTable, seed: int) -> Iterator[TableRow]:
    """The rows of a table, each with the vector of another document."""
    order = other_documents(table.column("document"), seed)
    return (replace(table[row], vector=table.vectors[other]) for row, other in enumerate(order))


def _write(path: Path, width: int, rows: Iterable[TableRow]) -> None:
    with TableWriter(path, width) as writer:
        writer.write(rows)


def _checked(path: Path, corpus: str) -> ActivationTable:
    """The table that was written.

    Raises:
        UserError: it has activations of fewer than two documents.
    """
    table = ActivationTable(path)
    if (found := len(set(table.column("document")))) < LEAST:
        raise UserError(
            f"--corpus {corpus}: only {found} documents of '{path.stem}' have a token that can be read and a text of "
            "the teacher; lower --min_position, give longer or more documents, or more explanations"
        )
    return table


def _check_disjoint(tables: Mapping[str, ActivationTable]) -> None:
    """See by their content that no document is in two splits."""
    seen: dict[str, str] = {}
    for split, table in tables.items():
        for document in table.column("document"):
            if seen.setdefault(document, split) != split:
                raise UserError(
                    f"the document {document} is in '{seen[document]}' and in '{split}': the corpus has the same text "
                    "in two splits; take it out of one"
                )
