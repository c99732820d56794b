"""Evaluation on the named sets of a task: the policy's answers, measured as the task says."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lit_narrative.callbacks.base import dry_run, task
from lit_narrative.datamodules.task import Answered, Task, numbered
from lit_narrative.distributed import gather_lists
from lit_narrative.errors import UserError, check_choice, check_least
from lit_narrative.files import write_json, write_jsonl
from lit_narrative.lm.encoding import example_ids
from lit_narrative.lm.logprobs import completion_batch, score_completions
from lit_narrative.lm.shard import gathered
from lit_narrative.modules.language import LanguageModule
from lit_narrative.report.run_folder import versions
from lit_narrative.seeds import run_seed
from lit_narrative.views import Example, Rollout, Turn

_BATCH = 256


class SetEvaluation(Callback):
    """Answers the prompts of several named sets of a task, and measures the answers.

    The task names its sets and says what is measured (`TaskDataModule.test_sets`, `named_prompts`, `measure`); one
    that names none is measured on its splits, by its verifiers. Logs ``<stage>/<set>/<score>`` (of the set ``val``:
    ``val/<score>``) and writes to the run folder ``eval/<tag>.json``, all scores of each set, and ``eval/<tag>.jsonl``,
    a row an answer.

    Args:
        validate: sets to measure at validation.
        test: sets to measure at test; default: all test sets of the task.
        samples: prompts a set at most; default: all it has.
        tag: name of the files; default: the stage, ``val`` or ``test``.
        greedy: answer with the likeliest token each time; else by the module's own sampling, which suits long texts: by
            their likeliest tokens models repeat themselves.

    Raises:
        UserError: no samples are asked for.
    """

    def __init__(
        self,
        validate: Sequence[str] = ("val",),
        test: Sequence[str] | None = None,
        samples: int | None = None,
        tag: str | None = None,
        greedy: bool = True,
    ) -> None:
        check_least("callback SetEvaluation: samples", samples, 1)
        self.validate, self.test = tuple(validate), None if test is None else tuple(test)
        self.samples, self.tag, self.greedy = samples, tag, greedy

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module that writes no text, and a set that the task lacks."""
        if not isinstance(pl_module, LanguageModule):
            raise UserError(
                f"callback SetEvaluation needs a module that writes text; {type(pl_module).__name__} does not"
            )
        for setting, sets in (("validate", self.validate), ("test", self.test or ())):
            for name in sets:
                check_choice(f"callback SetEvaluation: {setting}", name, task(trainer).named_sets)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the sets of ``validate``."""
        if not trainer.sanity_checking:
            self._measure(trainer, pl_module, "val", self.validate)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the sets of ``test``."""
        sets = task(trainer).test_sets if self.test is None else self.test
        self._measure(trainer, pl_module, "test", sets)

    def _measure(self, trainer: Trainer, module: LightningModule, stage: str, sets: Sequence[str]) -> None:
        assert isinstance(module, LanguageModule)
        data = task(trainer)
        answers = {name: self._answers(trainer, module, name) for name in sets}
        scores = {name: data.measure(name, rows) for name, rows in answers.items()}
        metrics = {_name(stage, key): value for key, value in data.set_metrics(scores).items() if value is not None}
        # Every process computed the same metrics from the same gathered answers: there is nothing to reduce.
        module.log_dict({key: torch.tensor(value) for key, value in metrics.items()}, rank_zero_only=False)
        if trainer.is_global_zero and not dry_run(trainer):
            tag, folder = self.tag or stage, Path(trainer.default_root_dir, "eval")
            write_json(folder / f"{tag}.json", set_record(data, tag, trainer.global_step, scores))
            rows = ({"set": name, **data.answer_row(row)} for name, rows in answers.items() for row in rows)
            write_jsonl(folder / f"{tag}.jsonl", rows)

    def _answers(self, trainer: Trainer, module: LanguageModule, name: str) -> list[Answered]:
        """The answers to a set's prompts, in order, on every process."""
        prompts = numbered(task(trainer).named_prompts(name))
        prompts = list(islice(prompts, 4 if dry_run(trainer) else self.samples))
        local = prompts[trainer.global_rank :: trainer.world_size]
        # The sampler has no greedy mode: of one candidate the likeliest token is certain, whatever the random stream.
        params = replace(module.sampling, temperature=1.0, top_k=1, top_p=1.0) if self.greedy else None
        rollouts = module.generate(local, seed=run_seed(), params=params)
        completions, turns = [rollout.completion_ids for rollout in rollouts], [rollout.turns for rollout in rollouts]
        written = log_probabilities(module, rollouts, completions, turns)
        golden = _gold(module, rollouts)
        answers = [Answered(*row) for row in zip(rollouts, written.exp().tolist(), golden, strict=True)]
        # Processes took every n-th prompt; in order of rank, sums would round differently for each number of processes.
        return sorted(gather_lists(trainer, answers), key=lambda row: row.rollout.columns["index"])


def set_record(data: Task, tag: str, step: int, scores: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What ``eval/<tag>.json`` holds: the scores of each set, with what the task says of them together."""
    return {
        "tag": tag,
        "seed": run_seed(),
        "step": step,
        "splits": scores,
        **data.set_summary(scores),
        "versions": versions(),
    }


def _gold(module: LanguageModule, rollouts: Sequence[Rollout]) -> list[float | None]:
    """Log-probability, in nats, of the reference answer to each prompt; None where the task gives no reference."""
    known = [rollout for rollout in rollouts if "reference" in rollout.columns]
    rows = [Example(rollout.messages or rollout.prompt, str(rollout.columns["reference"])) for rollout in known]
    _, ids = example_ids(rows, module.tokenizer, module.chat)
    values = iter(log_probabilities(module, known, [torch.tensor(row) for row in ids]).tolist())
    return [next(values) if "reference" in rollout.columns else None for rollout in rollouts]


@torch.no_grad()
def log_probabilities(
    module: LanguageModule,
    rollouts: Sequence[Rollout],
    completions: Sequence[torch.Tensor],
    turns: Sequence[Sequence[Turn]] = (),
) -> torch.Tensor:
    """(n,) log-probability, in nats, that the policy gives each completion to the prompt of each rollout.

    Args:
        module: the policy.
        rollouts: n prompts.
        completions: n of them.
        turns: the earlier turns of each completion; empty: none at all.
    """
    sums = [torch.zeros(0)]
    with module.precision(), gathered(module.lm):
        for start in range(0, len(rollouts), _BATCH):
            part = slice(start, start + _BATCH)
            prompts = [rollout.prompt_ids for rollout in rollouts[part]]
            vectors = [rollout.injection for rollout in rollouts[part]]
            batch = completion_batch(prompts, completions[part], vectors, turns[part])
            # The tokens of all completions come in one row; they are summed in float32 on the CPU, on any device alike.
            counts = batch.targets.sum(1).tolist()
            scores = score_completions(module.lm, batch.to(module.device))
            sums.append(torch.stack([tokens.sum() for tokens in scores.logprobs.float().cpu().split(counts)]))
    return torch.cat(sums)


def _name(stage: str, key: str) -> str:
    return f"{stage}/{key.removeprefix('val/') if stage == 'val' else key}"
