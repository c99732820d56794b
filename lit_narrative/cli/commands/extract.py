"""``lit-narrative extract``: activations of a model on a corpus, as tables to train a verbalizer on."""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np

from lit_narrative.errors import UserError, check_least
from lit_narrative.files import atomic_folder, read_yaml
from lit_narrative.lookup import find_config, shipped_configs
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

if TYPE_CHECKING:
    from lit_narrative.datamodules.base import Split
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


def extract(
    model: str | None = None,
    layer: int | None = None,
    corpus: str = "stories",
    to: str | None = None,
    documents: int | None = None,
    eval_documents: int | None = None,
    positions_per_document: int = 10,
    min_position: int = 8,
    max_tokens: int | None = None,
    teacher: Literal["window", "words", "file", "none", "endpoint"] = "window",
    words: int = 1,
    last: int = 8,
    explanations: str | None = None,
    endpoint: str | None = None,
    endpoint_model: str | None = None,
    endpoint_key_env: str | None = None,
    shuffled: bool = False,
    tags: bool | None = None,
    actor_template: str | None = None,
    critic_template: str = CRITIC_TEMPLATE,
    marker: str | None = None,
    batch_size: int = 32,
    device: Device = "auto",
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    seed: int = 0,
    trust_remote_code: bool = False,
) -> None:
    """Read a model's activations on a corpus into a new folder: train, val and test tables, and what they hold.

    Args:
        model: a .ckpt of this package, a folder, or a hub name.
        layer: whose output is read, as transformers counts hidden states: 0 is what the first block reads, l the raw
            output of block l, counted from 1.
        corpus: stories, a .txt file or a folder of them, a .jsonl file with a text a line, or the name of a
            configuration, whose task's examples are read.
        to: the new folder.
        documents: training documents at most; by default 1000 stories, and all of any other corpus.
        eval_documents: those of val and of test at most; by default 100 stories each, and all of any other corpus.
        positions_per_document: tokens of each document at most, without replacement.
        min_position: first token of a document that may be read, counted from 0.
        max_tokens: of a document that are read; by default the model's positions, and 1024 at most.
        teacher: where the texts to imitate come from: a window of the last words, some words of the last ones at
            random, a file, none, or a model behind an endpoint.
        words: of the teacher's texts (window: exactly, words: at most).
        last: words of the text that random ones are drawn from.
        explanations: file with texts, .jsonl or .parquet, a document, position and explanation a row.
        endpoint: URL of chat completions, such as http://localhost:8000/v1/chat/completions.
        endpoint_model: name of the model there.
        endpoint_key_env: environment variable with a key for it.
        shuffled: make a control: each row gets the vector of another document's.
        tags: write the texts to imitate between explanation tags, so that a cut answer shows; by default where the
            tokenizer can write them, which one of whole words cannot unless it learned them.
        actor_template: the actor's prompt, with {marker} where the vector goes; by default one that asks for words,
            between tags or not.
        critic_template: what the critic reads, with {explanation} where the text goes.
        marker: text of the marker token; by default a rare character that the tokenizer has as one token, or one that
            its vocabulary keeps free.
        batch_size: documents a forward pass.
        device: where the model runs.
        dtype: of the model's weights; vectors are stored in float32.
        seed: of the choice of tokens, of random words, and of stories.
        trust_remote_code: run the Python code that the model brings along.

    Raises:
        UserError: something is missing, wrong, or too small.
    """
    if model is None or layer is None or to is None:
        given = {"--model": model, "--layer": layer, "--to": to}
        raise UserError(f"{next(name for name, value in given.items() if value is None)} is missing; give it")
    if Path(to).exists():
        raise UserError(f"'{to}' exists already: name a new folder")
    check_least("--documents", documents, 2)
    check_least("--eval_documents", eval_documents, 2)
    CriticPrompt(critic_template)
    if actor_template is not None:
        ActorPrompt(actor_template)
    teach, lessons = _teacher(teacher, words, last, explanations, seed, (endpoint, endpoint_model, endpoint_key_env))
    texts = read_corpus(corpus, seed)
    texts.check()
    # Behind the checks: what follows takes seconds to import and to load.
    from lit_narrative.lm.vectors.activations import ExtractionSettings

    settings = ExtractionSettings(layer, min_position, positions_per_document, max_tokens, batch_size, seed)
    reader = _Reader(model, settings, device, dtype, trust_remote_code)
    tags = reader.tags(tags)
    prompt, ids = reader.prompt(actor_template or (ACTOR_TEMPLATE if tags else PLAIN_TEMPLATE), marker)
    with atomic_folder(to) as folder:
        for split in SPLITS:
            most = (documents if split == "train" else eval_documents) or (
                STORIES[split] if corpus == "stories" else None
            )
            found = reader.read(texts.documents(split, most))
            _write(folder / f"{split}.parquet", reader.width, _rows(found, teach, prompt.text, tags))
        tables = {split: _checked(folder / f"{split}.parquet", corpus) for split in SPLITS}
        _check_disjoint(tables)
        norm = float(np.linalg.norm(tables["train"].vectors.astype(np.float64), axis=1).mean())
        if shuffled:
            for split, table in tables.items():
                _write(folder / f"{split}.parquet", reader.width, _exchanged(table, seed))
        sidecar = Sidecar(
            model=model,
            layer=layer,
            width=reader.width,
            min_position=min_position,
            positions_per_document=positions_per_document,
            corpus=corpus,
            teacher=lessons,
            seed=seed,
            shuffled=shuffled,
            mean_norm=norm,
            marker=prompt.marker,
            marker_id=ids[0],
            neighbours=ids[1:],
            actor_template=prompt.template,
            critic_template=critic_template,
            splits={split: SplitRecord.of(table.column("document")) for split, table in tables.items()},
            tags=tags,
        )
        sidecar.save(folder)
    for split, record in sidecar.splits.items():
        print(f"{split:<5} {record.rows} activations of {record.documents} documents")
    written = "" if tags else ", answers without tags"
    print(f"{to}: layer {layer}, {reader.width} wide, mean norm {norm:.4g}, marker {prompt.marker!r}{written}")


def _teacher(
    kind: str, words: int, last: int, file: str | None, seed: int, endpoint: tuple[str | None, str | None, str | None]
) -> tuple[Teacher, str]:
    """The teacher, and what it is in words.

    Raises:
        UserError: a setting is missing, or of another teacher.
    """
    url, model, key = endpoint
    if kind != "endpoint":
        if url or model or key:
            raise UserError(f"--endpoint is of --teacher=endpoint, and --teacher is {kind}; leave one out")
        settings = TeacherSettings(cast("Kind", kind), words, last, file)
        return make_teacher(settings, seed), str(settings)
    if url is None or model is None:
        raise UserError("--teacher=endpoint needs --endpoint, a URL, and --endpoint_model")
    from lit_narrative.rl.rewards.base import Lost
    from lit_narrative.rl.rewards.chat_client import ChatClient

    client = ChatClient(url, key_env=key, timeout=600.0, model=model)

    def teach(places: Sequence[Place]) -> list[str | None]:
        texts = client.complete([QUESTION.format(source=place.source) for place in places])
        if lost := [text for text in texts if isinstance(text, Lost)]:
            logger.warning("%d of %d texts of the endpoint are missing: %s", len(lost), len(texts), lost[0])
        # Tags and line breaks of its own would break the form of the answer.
        plain = [None if isinstance(text, Lost) else " ".join(_TAG.sub(" ", text).split()) for text in texts]
        return [text or None for text in plain]

    return teach, f"{model} at {url}"


class _Reader:
    """A model whose activations are read.

    Args:
        model: its name.
        settings: what is read.
        device: where it runs.
        dtype: of its weights.
        trusted: whether its own code may run.
    """

    def __init__(
        self, model: str, settings: "ExtractionSettings", device: Device, dtype: "Dtype", trusted: bool
    ) -> None:
        import torch

        from lit_narrative.lm.load import base_lm
        from lit_narrative.lm.threads import choose_threads, threads_are_given
        from lit_narrative.lm.vectors.activations import check_layer
        from lit_narrative.lm.vectors.reconstructor import truncate
        from lit_narrative.steering.factory import read_policy

        lm, self.tokenizer = read_policy(model, dtype, trust_remote_code=trusted)
        check_layer(lm, settings.layer, "--layer")
        where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
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


# --- corpora ----------------------------------------------------------------------------------------------------------


def read_corpus(name: str, seed: int) -> Corpus:
    """The corpus of a name: stories, files, or the examples of a configuration's task.

    Raises:
        UserError: there is no such corpus, or the configuration has no task with examples.
    """
    if name == "stories":
        return story_corpus(seed)
    short = name.removesuffix(".yaml")
    return task_corpus(name) if name.endswith(".yaml") or short in shipped_configs() else file_corpus(name)


def task_corpus(name: str) -> Corpus:
    """The examples of a task, prompt and completion together, in the task's own splits.

    Args:
        name: of a configuration.

    Raises:
        UserError: it has no `data`, or the task no examples.
    """
    content = read_yaml(find_config(name))
    if not isinstance(content, dict) or "data" not in content:
        raise UserError(f"--corpus {name}: the configuration has no `data`; name one of a job, or files")
    from lit_narrative.cli.lightning import build_task
    from lit_narrative.views import prompt_text

    task = build_task(content["data"])
    task.view("examples", "train")  # a task without examples fails now

    def read(split: str) -> Iterator[str]:
        return (prompt_text(row.prompt) + row.completion for row in task.view("examples", cast("Split", split)))

    return Corpus(name, read)
