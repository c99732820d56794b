"""Rollouts as tensors."""

import torch

from lit_narrative.rl.batch import RolloutBatch
from lit_narrative.rl.losses import StepTotals
from lit_narrative.views import Rollout

LENGTHS = ((3, 2), (1, 4), (5, 1), (2, 2))  # of prompt and completion


def rollout(place: int, prompt: int, completion: int) -> Rollout:
    ids = torch.arange(100 * place, 100 * place + prompt + completion)
    logprobs = -torch.arange(1.0, completion + 1)
    return Rollout(ids[:prompt], ids[prompt:], logprobs, finished=True, text="")


def batch() -> RolloutBatch:
    rollouts = [rollout(place, *lengths) for place, lengths in enumerate(LENGTHS)]
    made = RolloutBatch.of(rollouts)
    return made._replace(advantages=torch.arange(4.0), reference=made.old - 1, is_ratio=torch.ones(4, 1))


def test_rows_stand_side_by_side() -> None:
    made = batch()
    assert made.mask.tolist() == [[n < completion for n in range(4)] for _, completion in LENGTHS]
    assert made.old.tolist() == [[-1, -2, 0, 0], [-1, -2, -3, -4], [-1, 0, 0, 0], [-1, -2, 0, 0]]
    assert made.batch.ids[made.batch.targets].tolist() == [3, 4, 101, 102, 103, 104, 205, 302, 303]
    assert torch.equal(made.batch.targets.sum(1), made.mask.sum(1))


def test_chosen_rows_are_cut_to_their_longest() -> None:
    part = batch().select(torch.tensor([3, 0]))
    assert part.batch.ids.tolist() == [[300, 301, 302, 303, 0], [0, 1, 2, 3, 4]]
    assert part.mask.shape == part.old.shape == (2, 2)
    assert part.reference is not None
    assert part.reference.tolist() == [[-2, -3], [-2, -3]]
    assert part.advantages.tolist() == [3, 0]
    assert part.is_ratio is not None and part.is_ratio.shape == (2, 1)
    tokenwise = batch()._replace(advantages=batch().old)
    assert tokenwise.select(torch.tensor([3, 0])).advantages.tolist() == [[-1, -2], [-1, -2]]
    assert batch()._replace(reference=None).select(torch.tensor([1])).reference is None


def test_every_row_is_taken_once_and_sorted_by_length() -> None:
    steps = list(batch().shuffle_rows(2, torch.Generator().manual_seed(0)))
    assert sorted(row for rows in steps for row in rows.tolist()) == [0, 1, 2, 3]
    lengths = torch.tensor([completion for _, completion in LENGTHS])
    assert all((lengths[rows].diff() >= 0).all() for rows in steps)
    again = list(batch().shuffle_rows(2, torch.Generator().manual_seed(0)))
    assert all(torch.equal(a, b) for a, b in zip(steps, again, strict=True))


def test_a_checkpoint_brings_it_back() -> None:
    made = batch()._replace(totals=StepTotals(4, 9, 8, 16), fresh=True)
    again = RolloutBatch.from_dict(made.as_dict())
    assert (again.totals, again.fresh) == (made.totals, True)
    torch.testing.assert_close(tuple(again.batch), tuple(made.batch))
    for name in ("mask", "row_mask", "old", "advantages", "reference", "is_ratio"):
        torch.testing.assert_close(getattr(again, name), getattr(made, name))
    assert again.values is None


def test_the_names_of_older_checkpoints_are_understood() -> None:
    made = batch()._replace(totals=StepTotals(4, 9, 8, 16))
    stored = made.as_dict()
    stored["counted"], stored["window"] = stored.pop("row_mask"), stored.pop("totals")
    again = RolloutBatch.from_dict(stored)
    assert again.totals == made.totals
    assert torch.equal(again.row_mask, made.row_mask)


def test_completions_stand_side_by_side_and_rows_that_do_not_count_teach_nothing() -> None:
    made = batch()._replace(row_mask=torch.tensor([True, False, True, True]))
    assert made.completion_ids.tolist() == [[3, 4, 0, 0], [101, 102, 103, 104], [205, 0, 0, 0], [302, 303, 0, 0]]
    assert made.loss_mask.sum(1).tolist() == [2, 0, 1, 2]
    parts = list(made.by_length(3))
    assert [len(part) for part in parts] == [3, 1]
    assert parts[1].tolist() == [1]


def test_moving_a_rollout_moves_its_tensors() -> None:
    moved = rollout(0, 2, 3).to(torch.device("meta"))
    assert {moved.prompt_ids.device.type, moved.completion_ids.device.type, moved.logprobs.device.type} == {"meta"}
    assert moved.finished
