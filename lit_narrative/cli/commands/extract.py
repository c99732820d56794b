"""``lit-narrative extract``: activations of a model on a corpus, as tables to train a verbalizer on."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lit_narrative.datamodules.extraction import (
    Device,
    Extraction,
    make_corpus,
    make_lesson,
    write_activations,
)
from lit_narrative.errors import UserError
from lit_narrative.files import read_yaml
from lit_narrative.lookup import find_config, shipped_configs

if TYPE_CHECKING:
    from lit_narrative.datamodules.task import Task


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
    critic_template: str | None = None,
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
        critic_template: what the critic reads, with {explanation} where the text goes; by default between tags
            that say what it is.
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
    job = Extraction(
        model,
        layer,
        documents=documents,
        eval_documents=eval_documents,
        positions_per_document=positions_per_document,
        min_position=min_position,
        max_tokens=max_tokens,
        shuffled=shuffled,
        tags=tags,
        actor_template=actor_template,
        critic_template=critic_template,
        marker=marker,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        seed=seed,
        trust_remote_code=trust_remote_code,
    )
    lesson = make_lesson(
        teacher, words, last, explanations, seed, endpoint=endpoint, model=endpoint_model, key=endpoint_key_env
    )
    sidecar = write_activations(to, job, make_corpus(corpus, seed, _task(corpus)), lesson)
    for split, record in sidecar.splits.items():
        print(f"{split:<5} {record.rows} activations of {record.documents} documents")
    written = "" if sidecar.tags else ", answers without tags"
    about = f"layer {layer}, {sidecar.width} wide, mean norm {sidecar.mean_norm:.4g}, marker {sidecar.marker!r}"
    print(f"{to}: {about}{written}")


def _task(corpus: str) -> "Task | None":
    """The task of a corpus that is the name of a configuration.

    Raises:
        UserError: the configuration has none.
    """
    if not corpus.endswith(".yaml") and corpus not in shipped_configs():
        return None
    content = read_yaml(find_config(corpus))
    if not isinstance(content, dict) or "data" not in content:
        raise UserError(f"--corpus {corpus}: the configuration has no `data`; name one of a job, or files")
    from lit_narrative.cli.lightning import build_task

    return build_task(content["data"])
