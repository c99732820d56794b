"""What judges the explanations of the task verbalize: critics, the rules of the stories, and the subject itself."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from lit_narrative.datamodules.task import Answered
from lit_narrative.errors import UserError
from lit_narrative.lm.checkpoint import load_checkpoint
from lit_narrative.lm.load import base_lm
from lit_narrative.lm.tokenizer import encode_prompts
from lit_narrative.lm.vectors.patching import first_token, patched_logits
from lit_narrative.lm.vectors.reconstructor import Reconstructor, stored_reconstructor
from lit_narrative.lm.vectors.verbalizer import Verbalizer
from lit_narrative.report.intervals import Floats
from lit_narrative.seeds import stream_seed
from lit_narrative.steering.factory import read_policy
from lit_narrative.tasks.verbalize.evaluation.causal import causal_scores, edit_claims
from lit_narrative.tasks.verbalize.evaluation.claims import knowledge_scores
from lit_narrative.tasks.verbalize.evaluation.evaluate import FROZEN, Aids, AnswerSet, evaluate
from lit_narrative.tasks.verbalize.evaluation.readings import Critics, Pool, Reconstruct
from lit_narrative.tasks.verbalize.prompts import explanation_of
from lit_narrative.tasks.verbalize.sidecar import Sidecar
from lit_narrative.tasks.verbalize.stories import Claim, claims, paraphrase, vocabulary
from lit_narrative.text import WordBits, words_of


@dataclass(frozen=True)
class Subject:
    """The model whose activations are explained.

    Attributes:
        lm: it.
        tokenizer: its tokenizer.
        layer: where its activations were read.
    """

    lm: nn.Module
    tokenizer: PreTrainedTokenizerBase
    layer: int

    def predict(self, sources: Sequence[str], vectors: Floats | None) -> Floats:
        """(k, V) float64 log-probabilities of the token behind each text, with vectors (k, a) at its last token."""
        # Texts end with the token whose activation is explained, and so do their rows.
        rows = encode_prompts(self.tokenizer, sources)
        given = None if vectors is None else torch.tensor(vectors, dtype=torch.float32)
        logits = patched_logits(self.lm, rows, self.layer, given)
        found: Floats = logits.double().log_softmax(-1).numpy()
        return found

    def token(self, word: str) -> int | None:
        """The id of a word's first token."""
        return first_token(self.tokenizer, word)


@dataclass
class TrainingRows:
    """Rows that the actor learned from.

    Attributes:
        vectors: (m, a) raw activations.
        texts: m, the teacher's.
        sources: m, the text up to each position.
    """

    vectors: Floats
    texts: Sequence[str]
    sources: Sequence[str]


@dataclass
class ExplanationJudge:
    """What explanations are judged by, for the whole run.

    Attributes:
        training: the training rows, read when they are first needed.
        marker: text of the marker.
        stories: whether the texts are those of `lit_narrative.tasks.verbalize.stories`, whose content is known.
        parse: cuts the explanation out of an answer; None where its format failed.
        frozen: the critic as supervised training left it; None: there is none.
        subject: for the causal test, asked for when it is first needed; None: there is no such test.
        causal_rows: of a set that the causal test edits, at most.
        co_trained: the critic that learns along with the actor; None: the frozen one is as good.
    """

    training: Callable[[], TrainingRows]
    marker: str
    stories: bool
    parse: Callable[[str], str | None] = explanation_of
    frozen: Reconstructor | None = None
    subject: Callable[[], Subject] | None = None
    causal_rows: int = 100
    co_trained: Reconstruct | None = field(default=None)

    @property
    def critics(self) -> Critics:
        """Both critics by suffix; before the actor is reinforced they are one and the same."""
        frozen = None if self.frozen is None else self.frozen.reconstruct
        found = {"": self.co_trained or frozen, FROZEN: frozen}
        return {suffix: critic for suffix, critic in found.items() if critic is not None}

    @cached_property
    def aids(self) -> Aids:
        """What needs the training rows."""
        rows = self.training()
        known = {"claims": claims, "paraphrase": paraphrase} if self.stories else {}
        return Aids(self.marker, WordBits(rows.sources), Pool(rows.vectors, rows.texts), **known)  # type: ignore[arg-type]

    def scores(self, answers: Sequence[Answered], references: bool, causal: bool) -> dict[str, Any]:
        """Every figure of the answers to a set.

        Args:
            answers: to its prompts, in order.
            references: measure floors, ceilings, prefixes and paraphrases too.
            causal: make the causal test, if there is a subject.
        """
        rows = self._rows(answers)
        made = evaluate(rows, self.critics, self.aids, references)
        if self.stories:
            said = [claims(text or "") for text in rows.explanations]
            made |= knowledge_scores(rows.fidelity.resamples, said, [claims(source) for source in rows.sources])
        if causal and self.stories and self.subject is not None and "" in self.critics:
            made |= self._causal(rows, self.subject())
        return made

    def _rows(self, answers: Sequence[Answered]) -> AnswerSet:
        columns = [answer.rollout.columns for answer in answers]
        texts = [answer.rollout.text for answer in answers]
        known = all(column.get("reference") for column in columns)
        return AnswerSet(
            answers=texts,
            explanations=[explanation(answer, self.parse) for answer in answers],
            targets=np.stack([np.asarray(column["target"], dtype=np.float64) for column in columns]),
            # Of plain tables each row is a document of its own, and the text before it is not known.
            documents=[str(column.get("document", row)) for row, column in enumerate(columns)],
            sources=[str(column.get("source", "")) for column in columns],
            teacher=[self.parse(str(column["reference"])) or "" for column in columns] if known else None,
            # Directions where there is no critic: its floor is then that of the default critic.
            scale=1.0 if self.frozen is None else self.frozen.scale,
        )

    def _causal(self, rows: AnswerSet, subject: Subject) -> dict[str, Any]:
        rng = np.random.default_rng(stream_seed(0, len(rows.answers)))
        edits = [None if text is None else edit_claims(text, rng) for text in rows.explanations]
        edited = [row for row, edit in enumerate(edits) if edit]
        chosen = (
            {edited[row] for row in np.linspace(0, len(edited) - 1, self.causal_rows).astype(int)} if edited else set()
        )

        def predict(numbers: Sequence[int], vectors: Floats | None) -> Floats:
            return subject.predict([rows.sources[number] for number in numbers], vectors)

        return causal_scores(
            rows.fidelity.resamples,
            [edit if row in chosen else None for row, edit in enumerate(edits)],
            rows.explanations,
            rows.targets,
            self.critics[""],
            predict,
            subject.token,
            directions=rows.scale is not None,
        )


def explanation(answer: Answered, parse: Callable[[str], str | None]) -> str | None:
    """The explanation in an answer; None where it has none, or was cut off, as the reward sees it too."""
    return parse(answer.rollout.text) if answer.rollout.finished else None


def answer_row(answer: Answered, parse: Callable[[str], str | None], stories: bool) -> dict[str, Any]:
    """An answer as a row of a file: the place, what is said of it, and which claims are so.

    Args:
        answer: to a prompt of the task.
        parse: cuts the explanation out of a text.
        stories: whether the texts are stories, whose content is known; else nothing is said of claims.
    """
    columns, text = answer.rollout.columns, answer.rollout.text
    told, source = explanation(answer, parse), str(columns.get("source", ""))
    said, known = (claims(told or ""), claims(source)) if stories else (set[Claim](), set[Claim]())
    return {
        "document": columns.get("document"),
        "position": columns.get("position"),
        "source": source,
        "reference": parse(str(columns.get("reference", ""))),
        "text": text,
        "explanation": told,
        "right": [f"{slot}: {value}" for slot, value in sorted(said & known)],
        "wrong": [f"{slot}: {value}" for slot, value in sorted(said - known)],
        "confidence": answer.confidence,
        "gold_logprob": answer.gold,
    }


def from_stories(sources: Iterable[str]) -> bool:
    """Whether texts are stories, or their beginnings: every word is one of the grammar, and something is claimed."""
    known = {word.casefold() for word in vocabulary()}
    # The last word may be cut off where a position lies within it.
    return all(claims(text) and known.issuperset(words_of(text)[:-1]) for text in sources)


def load_verbalizer(ckpt: str, data: str, critic: str | None = None) -> tuple[Verbalizer, Sidecar]:
    """An actor with the critic that ranks its explanations, and what its activations are of.

    Args:
        ckpt: checkpoint of the actor.
        data: the folder of activations that it was trained on.
        critic: checkpoint of the critic; None: the one that learned along in ``ckpt``, if there is one.

    Raises:
        UserError: one of them is not there, or of another kind.
    """
    sidecar = Sidecar.load(data)
    found = critic or (ckpt if stored_reconstructor(load_checkpoint(ckpt)) else None)
    parse = partial(explanation_of, tags=sidecar.tags)
    return Verbalizer.load(ckpt, found, sidecar.actor_template, parse), sidecar


def read_critic(path: str, width: int, device: torch.device | str) -> Reconstructor:
    """A critic from a checkpoint.

    Args:
        path: of the checkpoint.
        width: of the vectors that it must give.
        device: where it works.

    Raises:
        UserError: there is none, or it gives vectors of another width.
    """
    critic = Reconstructor.load(path)
    if critic.width != width:
        raise UserError(
            f"the critic '{path}' of data.critic gives vectors {critic.width} wide, and the activations are {width} "
            "wide; give the critic that learned from them"
        )
    return critic.to(device)


def read_subject(model: str, layer: int | None, width: int, device: torch.device | str) -> Callable[[], Subject]:
    """A function that reads the subject when it is first called.

    Args:
        model: a ``.ckpt`` of this package, a folder, or a hub name.
        layer: that the activations are of.
        width: of the activations.
        device: where it works.

    Raises:
        UserError: the layer is not known; there is no such model, or it has another width.
    """
    if layer is None:
        raise UserError("data.subject needs activations whose layer is known: a folder that extract wrote")
    lm, tokenizer = read_policy(model)
    if (hidden := base_lm(lm).config.get_text_config().hidden_size) != width:
        raise UserError(f"data.subject '{model}' is {hidden} wide, and the activations are {width} wide")
    subject = Subject(lm.eval().to(device), tokenizer, layer)
    return lambda: subject
