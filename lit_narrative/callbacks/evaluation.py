"""Evaluation by sampling: the model writes, and the task's verifiers judge what it wrote."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lit_narrative.callbacks.base import dry_run, task
from lit_narrative.datamodules.task import Split, Task, extra_means
from lit_narrative.distributed import gather_lists
from lit_narrative.errors import UserError
from lit_narrative.files import write_json, write_jsonl
from lit_narrative.modules.language import LanguageModule
from lit_narrative.report.intervals import paired_share_interval, share_interval
from lit_narrative.rl.rewards.base import Reward, ask_once
from lit_narrative.views import Prompt, Rollout, Verdict


class Verifiers(Callback):
    """Samples on validation, test and predict; logs means, writes the judged samples.

    Works with any module that writes text and any task that has verifiers. The same prompts and random streams serve
    every model, so that two runs can be compared sample by sample. Of a module that writes in its own test
    (`SteeringModule`), the test judges those texts.

    The verifiers' total is logged as ``val/verifiers``: a run may learn by other rewards, whose sum is ``reward``.

    Where the module takes turns, the last text of each is judged, and beside that what the texts were worth after each
    turn: ``val/turns/1/<name>`` and so on.

    Files in the run folder: ``samples/<stage>.jsonl`` (a row a sample) and ``verifiers/<stage>.json`` (the summary).

    Args:
        samples: how many held-out prompts to complete, once each.
        seed: of the random streams.
        rewards: further scores, by the task's names for rewards, or ``package.module:Class(…)``: each a component under
            its own name, which counts for nothing in the verifiers' total. What a reward cannot score counts as 0.
    """

    def __init__(self, samples: int = 256, seed: int = 0, rewards: Sequence[str] = ()) -> None:
        if samples < 1:
            raise UserError(f"callback Verifiers: samples={samples} must be at least 1")
        self.samples, self.seed, self.rewards = samples, seed, tuple(rewards)
        self._scorers: dict[str, Reward] = {}
        self._predicted: list[Rollout] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module that writes no text, a task that judges none, and a reward that is unknown."""
        if not isinstance(pl_module, LanguageModule):
            raise UserError(f"callback Verifiers needs a module that writes text; {type(pl_module).__name__} does not")
        data = pl_module.task
        if not data.has_verifiers:
            raise UserError(
                f"callback Verifiers: {type(data).__name__} has no verifiers; override its method `verify`, or leave "
                "the callback out"
            )
        if self.rewards:
            for key, reward in task(trainer).reward_functions(self.rewards).items():
                if not isinstance(reward, Reward):
                    raise UserError(f"callback Verifiers: rewards: '{key}' waits for others, and cannot judge samples")
                self._scorers[key] = reward

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the prompts that will be completed, so that one that is too long fails before training."""
        self._prompts(trainer, "val")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As before training."""
        self._prompts(trainer, "test")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge completions of validation prompts."""
        if not trainer.sanity_checking:
            self._judge_split(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge completions of test prompts."""
        self._judge_split(trainer, pl_module, "test")

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, loader: int = 0
    ) -> None:
        """Keep what was written."""
        # Kept here because Lightning passes a callback the batches of its own process only, one at a time.
        self._predicted += outputs

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge what was written."""
        rollouts = gather_lists(trainer, self._predicted)
        self._predicted = []
        self._write(trainer, "predict", rollouts, self._judged(trainer, rollouts))

    def _prompts(self, trainer: Trainer, split: Split) -> list[Prompt]:
        count = 8 if dry_run(trainer) else self.samples
        return list(islice(task(trainer).rows_for("prompts", split), count))

    def _judge_split(self, trainer: Trainer, module: LightningModule, split: Split) -> None:
        assert isinstance(module, LanguageModule)
        written = module.written if split == "test" else None
        if written is None:
            local = self._prompts(trainer, split)[trainer.global_rank :: trainer.world_size]
            written = module.generate(local, seed=self.seed)
        rollouts = gather_lists(trainer, written)
        # Gathered by rank; in the prompts' order, figures and files do not depend on the number of processes.
        rollouts.sort(key=lambda rollout: rollout.columns["index"])
        summary = self._write(trainer, split, rollouts, self._judged(trainer, rollouts))
        for number, row in enumerate(summary.get("turns", ()), 1):
            summary |= {f"turns/{number}/{name}": value for name, value in row["shares"].items()}
        named = {"verifiers" if name == "reward" else name: value for name, value in summary.items()}
        metrics = {f"{split}/{name}": value for name, value in named.items() if isinstance(value, float)}
        metrics |= {f"{split}/components/{name}": value for name, value in summary["components"].items()}
        # Every process computed the same metrics from the same gathered samples: there is nothing to reduce.
        module.log_dict({name: torch.tensor(value) for name, value in metrics.items()}, rank_zero_only=False)

    def _judged(self, trainer: Trainer, rollouts: Sequence[Rollout]) -> list[Verdict]:
        """What the verifiers say, with the scores of further rewards among the components."""
        verdicts = task(trainer).verify(rollouts)
        for key, reward in self._scorers.items():
            if verdicts and reward.name in {"reward", *verdicts[0].components}:
                raise UserError(
                    f"callback Verifiers: there is a score '{reward.name}' already; give '{key}' another name"
                )
            # Under the reward's name, not under its path: files of several runs are compared by the names in them.
            scores = zip(verdicts, ask_once(key, reward, rollouts), strict=True)
            verdicts = [replace(v, components={**v.components, reward.name: score or 0.0}) for v, score in scores]
        return verdicts

    def _write(
        self, trainer: Trainer, stage: str, rollouts: Sequence[Rollout], verdicts: Sequence[Verdict]
    ) -> dict[str, Any]:
        data = task(trainer)
        summary = summarise(verdicts) | data.unique_shares([r.text for r in rollouts]) | {"seed": self.seed}
        if (turns := trainer.lightning_module.turns) is not None:  # type: ignore[union-attr]
            summary["turns"] = by_turn(data, rollouts, verdicts, turns.most)  # type: ignore[union-attr,arg-type]
        references = [_reference(rollout) for rollout in rollouts if "reference" in rollout.columns]
        # What the verifiers say of the corpus itself is what a model can hope for on these prompts.
        if references:
            texts = [rollout.text for rollout in references]
            summary["corpus"] = summarise(data.verify(references)) | data.unique_shares(texts)
        if trainer.is_global_zero and not dry_run(trainer):
            folder = Path(trainer.default_root_dir)
            rows = (sample_row(rollout, verdict) for rollout, verdict in zip(rollouts, verdicts, strict=True))
            write_jsonl(folder / "samples" / f"{stage}.jsonl", rows)
            write_json(folder / "verifiers" / f"{stage}.json", summary)
        return summary


def summarise(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Means over samples; a sample that could not be read counts as 0. The interval is 1.96 standard errors.

    The ``funnel`` has the share of samples that pass each stage and those before it.
    """
    totals = np.array([verdict.total for verdict in verdicts])
    margin = 1.96 * float(totals.std(ddof=1)) / len(totals) ** 0.5 if len(totals) > 1 else 0.0
    mean = float(totals.mean())
    stages = {name: float(np.mean([v.funnel[name] for v in verdicts])) for name in verdicts[0].funnel}
    return {
        "n": len(verdicts),
        "reward": mean,
        "reward_ci": [mean - margin, mean + margin],
        "valid_json": float(np.mean([verdict.valid for verdict in verdicts])),
        "components": {n: float(np.mean([v.components[n] for v in verdicts])) for n in verdicts[0].components},
        **extra_means(verdicts),
        **({"funnel": stages} if stages else {}),
    }


def by_turn(data: Task, rollouts: Sequence[Rollout], verdicts: Sequence[Verdict], most: int) -> list[dict[str, Any]]:
    """What completions are worth after each turn; one that was not answered stands as it is.

    Args:
        data: the task that judges.
        rollouts: n completions.
        verdicts: of their last texts.
        most: turns.

    Returns:
        A row a turn: the share of completions that have it as ``written``, mean ``reward`` with its interval, and for
        what a verdict says by yes or no ``shares`` with Wilson's 95 % intervals; from the second turn on ``gains``, the
        paired change since the first, with theirs.
    """
    rows, first = list[dict[str, Any]](), dict[str, Any]()
    for turn in range(1, most + 1):
        earlier = [number for number, rollout in enumerate(rollouts) if len(rollout.texts) > turn]
        pairs = [(rollouts[number], rollouts[number].turns[: turn - 1]) for number in earlier]
        stood = [replace(rollout, text=rollout.texts[turn - 1], turns=turns) for rollout, turns in pairs]
        judged = dict(zip(earlier, data.verify(stood), strict=True)) if stood else {}
        found = [judged.get(number, verdict) for number, verdict in enumerate(verdicts)]
        values = [{**verdict.components, **verdict.extra} for verdict in found]
        columns = {name: [row.get(name) for row in values] for name in values[0]}
        held = {name: np.array(column) for name, column in columns.items() if set(column) <= {0.0, 1.0}}
        row = {
            "written": float(np.mean([len(rollout.texts) >= turn for rollout in rollouts])),
            **{name: value for name, value in summarise(found).items() if name in ("n", "reward", "reward_ci")},
            "shares": {name: float(column.mean()) for name, column in held.items()},
            "shares_ci": {name: share_interval(float(column.mean()), len(column)) for name, column in held.items()},
        }
        first = first or held
        if turn > 1:
            changes = {name: column - first[name] for name, column in held.items() if name in first}
            row["gains"] = {name: float(change.mean()) for name, change in changes.items()}
            row["gains_ci"] = {
                name: paired_share_interval(int((change > 0).sum()), int((change < 0).sum()), len(change))
                for name, change in changes.items()
            }
        rows.append(row)
    return rows


def sample_row(rollout: Rollout, verdict: Verdict) -> dict[str, Any]:
    """A judged sample as one JSON value."""
    return {
        **rollout.prompt_columns,
        "text": rollout.text,
        "reward": verdict.total,
        "components": dict(verdict.components),
        "issues": [dict(issue) for issue in verdict.issues],
        "finished": rollout.finished,
        "tokens": len(rollout.completion_ids),
    }


def _reference(rollout: Rollout) -> Rollout:
    """The corpus' completion of the same prompt, as if it had been sampled."""
    empty = torch.zeros(0, dtype=torch.long)
    text = str(rollout.columns["reference"])
    return replace(rollout, completion_ids=empty, logprobs=torch.zeros(0), finished=True, text=text)
