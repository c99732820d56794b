"""How often a policy answers right, in distribution and out of it, and what it does where it is wrong."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lit_narrative.callbacks.base import dry_run
from lit_narrative.datamodules.base import Answered
from lit_narrative.datamodules.cards import CardsData, _row, _summary, scores_of
from lit_narrative.distributed import gather_lists
from lit_narrative.errors import UserError, check_least
from lit_narrative.files import write_json, write_jsonl
from lit_narrative.lm.logprobs import completion_batch, score_completions
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.lm.shard import gathered
from lit_narrative.lm.tokenizer import encode_completion
from lit_narrative.modules.language import LanguageModule
from lit_narrative.tasks.cards.game import SETS, TEST_SETS, check_names
from lit_narrative.tasks.cards.scores import gaps, mean_gap
from lit_narrative.views import Rollout

_LOGGED = ("accuracy", "lift", "format_validity", "trace_exact", "gold_logprob", "calibration_error")
_BATCH = 256


class CardEval(Callback):
    """Answers the prompts of several sets of the card game, always with the likeliest token, and measures them.

    Logs ``<stage>/<set>/accuracy`` and others (of the set ``val``: ``val/accuracy``) and writes to the run folder
    ``eval/<tag>.json``, everything that :func:`lit_narrative.tasks.cards.scores.set_scores` finds in each set with the
    gaps to ``id_test``, and ``eval/<tag>.jsonl``, a row an answer.

    Args:
        validate: sets to measure at validation.
        test: sets to measure at test; default: all test sets.
        samples: prompts a set at most; default: all it has.
        tag: name of the files; default: the stage, ``val`` or ``test``.

    Raises:
        UserError: there is no such set, or no samples are asked for.
    """

    def __init__(
        self,
        validate: Sequence[str] = ("val",),
        test: Sequence[str] = TEST_SETS,
        samples: int | None = None,
        tag: str | None = None,
    ) -> None:
        for name, sets in (("validate", validate), ("test", test)):
            check_names(f"callback CardEval: {name}", sets, SETS)
        check_least("callback CardEval: samples", samples, 1)
        self.sets = {"val": tuple(validate), "test": tuple(test)}
        self.samples, self.tag = samples, tag

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module that writes no text, and another task."""
        if not isinstance(pl_module, LanguageModule):
            raise UserError(f"callback CardEval needs a module that writes text; {type(pl_module).__name__} does not")
        if not isinstance(data := trainer.datamodule, CardsData):  # type: ignore[attr-defined]
            raise UserError(f"callback CardEval needs CardsData; this is {type(data).__name__}")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the sets of ``validate``."""
        if not trainer.sanity_checking:
            self._measure(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the sets of ``test``."""
        self._measure(trainer, pl_module, "test")

    def _measure(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        assert isinstance(module, LanguageModule)
        data: CardsData = trainer.datamodule  # type: ignore[attr-defined]
        found = {name: self._answers(trainer, module, data, name) for name in self.sets[stage]}
        splits = {name: scores_of(answers, data) for name, answers in found.items()}
        shifts = gaps({name: scores["accuracy"] for name, scores in splits.items()})
        metrics = {f"{name}/{key}": scores[key] for name, scores in splits.items() for key in _LOGGED}
        metrics |= {f"{name}/gap": gap for name, gap in shifts.items()}
        metrics["mean_gap"] = mean_gap(shifts)
        # Every process computed the same figures from the same gathered answers.
        logged = {_name(stage, key): torch.tensor(value) for key, value in metrics.items() if value is not None}
        module.log_dict(logged, rank_zero_only=False)
        if trainer.is_global_zero and not dry_run(trainer):
            tag, folder = self.tag or stage, Path(trainer.default_root_dir, "eval")
            write_json(folder / f"{tag}.json", _summary(data, tag, trainer.global_step, splits, shifts))
            write_jsonl(folder / f"{tag}.jsonl", [_row(name, row) for name, rows in found.items() for row in rows])

    def _answers(self, trainer: Trainer, module: LanguageModule, data: CardsData, name: str) -> list[Answered]:
        """The answers to a set's prompts, in order, on every process."""
        prompts = list(islice(data.named_prompts(name), 4 if dry_run(trainer) else self.samples))
        own = prompts[trainer.global_rank :: trainer.world_size]
        greedy = SamplingParams(module.sampling.max_new_tokens, top_k=1)
        rollouts = module.generate(own, params=greedy)
        written = log_probabilities(module, rollouts, [rollout.completion_ids for rollout in rollouts])
        golden = [encode_completion(module.tokenizer, str(prompt.columns["reference"])) for prompt in own]
        gold = log_probabilities(module, rollouts, [torch.tensor(ids) for ids in golden])
        confidence = written.exp().tolist()
        answers = [Answered(*row) for row in zip(rollouts, confidence, gold.tolist(), strict=True)]
        return sorted(gather_lists(trainer, answers), key=lambda row: row.rollout.columns["index"])


@torch.no_grad()
def log_probabilities(
    module: LanguageModule, rollouts: Sequence[Rollout], completions: Sequence[torch.Tensor]
) -> torch.Tensor:
    """(n,) log-probability, in nats, that the policy gives each completion to the prompt of each rollout."""
    sums = [torch.zeros(0)]
    with module.precision(), gathered(module.lm):
        for start in range(0, len(rollouts), _BATCH):
            part = slice(start, start + _BATCH)
            batch = completion_batch([rollout.prompt_ids for rollout in rollouts[part]], completions[part])
            counts = batch.targets.sum(1).tolist()
            scores = score_completions(module.lm, batch.to(module.device))
            sums.append(torch.stack([tokens.sum() for tokens in scores.logprobs.float().cpu().split(counts)]))
    return torch.cat(sums)


def _name(stage: str, key: str) -> str:
    return f"{stage}/{key.removeprefix('val/') if stage == 'val' else key}"
