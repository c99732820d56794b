"""The sidecar of a folder of activations: everything that another program, or another day, has to agree on.

It stands beside the tables as ``sidecar.json``, and is compared at every load with the tables, the tokenizer and the
templates in use: what disagrees is one clear error and not a model that learns from something else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lit_narrative.errors import UserError
from lit_narrative.files import read_json, write_json
from lit_narrative.tasks.verbalize.prompts import ActorPrompt, CriticPrompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILE = "sidecar.json"
KIND, VERSION = "lit_narrative.activations", 1
SPLITS = ("train", "val", "test")
_AGAIN = "extract the activations again by `lit-narrative extract`"


@dataclass(frozen=True)
class SplitRecord:
    """A table of the folder.

    Attributes:
        rows: of it.
        documents: that they are from.
        sha256: digest of its documents' digests, in order.
    """

    rows: int
    documents: int
    sha256: str

    @classmethod
    def of(cls, documents: Sequence[str]) -> Self:
        """The record of a table whose rows are of these documents."""
        names = list(dict.fromkeys(documents))
        return cls(len(documents), len(names), sha256("\n".join(names).encode()).hexdigest())


@dataclass(frozen=True)
class Sidecar:
    """What a folder of activations holds.

    Attributes:
        model: whose activations, as it was named.
        layer: K, as transformers counts hidden states.
        width: of the vectors.
        min_position: first token that was read of a document.
        positions_per_document: tokens of each.
        corpus: the documents, as they were named.
        teacher: where the responses come from, in words.
        seed: of the choice of tokens and of the teacher.
        shuffled: a control: each vector is of another document than its row.
        mean_norm: mean norm of the vectors of training.
        marker: text of the marker token.
        marker_id: its id in the model's tokenizer.
        neighbours: ids of the tokens before and behind it in the actor's prompt.
        actor_template: with ``{marker}``.
        critic_template: with ``{explanation}``.
        splits: the tables by name.
        tags: whether responses stand between tags.
    """

    model: str
    layer: int
    width: int
    min_position: int
    positions_per_document: int
    corpus: str
    teacher: str
    seed: int
    shuffled: bool
    mean_norm: float
    marker: str
    marker_id: int
    neighbours: tuple[int, int]
    actor_template: str
    critic_template: str
    splits: Mapping[str, SplitRecord]
    tags: bool = True

    @property
    def actor_prompt(self) -> ActorPrompt:
        """The prompt that the tables hold."""
        return ActorPrompt(self.actor_template, self.marker)

    @property
    def critic_prompt(self) -> CriticPrompt:
        """The text that the critic reads."""
        return CriticPrompt(self.critic_template)

    def save(self, folder: str | Path) -> Path:
        """Write the file."""
        return write_json(Path(folder, FILE), {"kind": KIND, "version": VERSION, **asdict(self)})

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read the file of a folder.

        Raises:
            UserError: there is none, or it is no sidecar of this version.
        """
        path = Path(folder, FILE)
        if not path.is_file():
            raise UserError(f"no {FILE} in {folder}; give a folder that `lit-narrative extract` wrote")
        content = read_json(path)
        if not isinstance(content, dict) or content.pop("kind", None) != KIND:
            raise UserError(f"{path} is no sidecar of activations; {_AGAIN}")
        if (version := content.pop("version", None)) != VERSION:
            raise UserError(f"{path} has the version {version!r}, and this release reads {VERSION}; {_AGAIN}")
        content.setdefault("tags", True)  # earlier folders had no others
        _check_kinds(path, content)
        records = {name: SplitRecord(**record) for name, record in content["splits"].items()}
        return cls(**{**content, "neighbours": tuple(content["neighbours"]), "splits": records})

    # --- comparisons --------------------------------------------------------------------------------------------------

    def check_documents(self, path: str | Path, split: str, documents: Sequence[str]) -> None:
        """Refuse a table of other documents than were written.

        Raises:
            UserError: naming the table.
        """
        if SplitRecord.of(documents) != self.splits[split]:
            raise UserError(f"{path} does not hold the documents that its {FILE} tells of; {_AGAIN}")

    def check_templates(self, actor: str | None, critic: str | None) -> None:
        """Refuse templates that are given and differ; None agrees with everything.

        Raises:
            UserError: naming the one that differs.
        """
        for name, given, stored in (
            ("actor", actor, self.actor_template),
            ("critic", critic, self.critic_template),
        ):
            if given is not None and given != stored:
                raise UserError(
                    f"data.prompt.{name} is {given!r}, and the activations were written for {stored!r}; leave it out, "
                    f"or {_AGAIN}"
                )

    def check_tags(self, tags: bool | None) -> None:
        """Refuse to read responses otherwise than they were written; None agrees with both.

        Raises:
            UserError: naming both.
        """
        if tags is not None and tags != self.tags:
            raise UserError(
                f"data.tags is {str(tags).lower()}, and the responses were written with tags={str(self.tags).lower()}; "
                f"leave it out, or {_AGAIN}"
            )

    def check_source(self, model: str | None, layer: int | None) -> None:
        """Refuse activations of another model or layer than is expected; None expects nothing.

        Raises:
            UserError: naming what differs.
        """
        if layer is not None and layer != self.layer:
            raise UserError(
                f"data.layer is {layer}, and the activations are of layer {self.layer}; change it, or {_AGAIN}"
            )
        if model is not None and model != self.model:
            raise UserError(
                f"data.model is '{model}', and the activations are of '{self.model}'; change it, or {_AGAIN}"
            )

    def check_tokenizer(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        """Refuse a tokenizer that reads the actor's prompt otherwise than the one of the folder: marker and neighbours.

        Raises:
            UserError: naming what it reads, and what was written.
        """
        found = marker_ids(tokenizer, self.actor_prompt)
        expected = (self.marker_id, *self.neighbours)
        if found != expected:
            said = "no token of its own" if found is None else f"id {found[0]} between {found[1]} and {found[2]}"
            raise UserError(
                f"the marker {self.marker!r} is {said} for this model's tokenizer, and the activations were written "
                f"for id {expected[0]} between {expected[1]} and {expected[2]}: the actor's tokenizer must be that of "
                f"'{self.model}'; take that model, or {_AGAIN}"
            )


def marker_ids(tokenizer: "PreTrainedTokenizerBase", prompt: ActorPrompt) -> tuple[int, int, int] | None:
    """The ids of the marker, and of the tokens before and behind it in the actor's prompt.

    Returns:
        None where no single token stands for the marker there; -1 for a neighbour that is missing.
    """
    before, _, behind = prompt.text.partition(prompt.marker)
    ids: list[int] = tokenizer.encode(prompt.text, add_special_tokens=False)
    places = [place for place, token in enumerate(ids) if str(tokenizer.decode([token])).strip() == prompt.marker]
    if len(places) != 1:
        return None
    place = places[0]
    left = ids[place - 1] if before and place else -1
    right = ids[place + 1] if behind and place + 1 < len(ids) else -1
    return ids[place], left, right


def _check_kinds(path: Path, content: Mapping[str, Any]) -> None:
    """Refuse a sidecar with a key too few or too many, or a value of another kind."""
    known = {item.name: item.type for item in fields(Sidecar)}
    if wrong := sorted(content.keys() ^ known.keys()):
        raise UserError(f"{path}: the key '{wrong[0]}' is missing or unknown; {_AGAIN}")
    for name, kind in known.items():
        if kind in (bool, int, str, float) and not isinstance(content[name], int | float if kind is float else kind):  # type: ignore[arg-type]
            raise UserError(f"{path}: {name} is {content[name]!r:.80}, and no {kind.__name__}; {_AGAIN}")  # type: ignore[union-attr]
    names, splits = {item.name for item in fields(SplitRecord)}, content["splits"]
    whole = isinstance(splits, dict) and all(isinstance(one, dict) and one.keys() == names for one in splits.values())
    pair = isinstance(content["neighbours"], list) and len(content["neighbours"]) == 2
    if not whole or not pair or splits.keys() != set(SPLITS):
        raise UserError(f"{path}: 'splits' or 'neighbours' is none; {_AGAIN}")
