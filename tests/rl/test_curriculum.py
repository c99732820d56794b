"""Which prompts come again: how often, the same on any number of processes and after a checkpoint."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_narrative.errors import UserError
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.rl.curriculum import Curriculum
from lit_narrative.views import Prompt
from tests.helpers import Recorder, TinyTask, fit, grpo, trainer, weights

POOL = [Prompt(f"prompt {number}", {"index": number}) for number in range(2000)]
# Success rates of 0, 1, 0.5 and 0.1: the first two teach nothing.
DEVIATIONS = torch.tensor([0.0, 0.0, 0.5, 0.3])


def seen(share: float = 0.4) -> Curriculum:
    curriculum = Curriculum(share)
    curriculum.update(torch.arange(4), DEVIATIONS)
    return curriculum


def test_prompts_come_again_in_proportion_to_the_deviation_of_their_rewards() -> None:
    seed_everything(3, verbose=False)
    slots = POOL[4:]
    counts = Counter(prompt.columns["index"] for prompt in seen().choose(slots, 0, 1, POOL))
    again = [counts[number] for number in range(4)]
    assert again[:2] == [0, 0]  # never solved, always solved
    # Four standard deviations of a binomial distribution.
    for count, chance in ((again[2], 0.4 * 5 / 8), (again[3], 0.4 * 3 / 8)):
        assert abs(count - chance * len(slots)) < 4 * math.sqrt(len(slots) * chance * (1 - chance))
    assert all(count == 1 for number, count in counts.items() if number > 3)


def test_the_choice_belongs_to_the_slot_and_not_to_the_process() -> None:
    seed_everything(3, verbose=False)
    whole = seen().choose(POOL[4:40], 0, 1, POOL)
    halves = [*seen().choose(POOL[4:40:2], 0, 1, POOL), *seen().choose(POOL[5:40:2], 0, 1, POOL)]
    assert halves == [*whole[::2], *whole[1::2]]
    backwards = Curriculum(0.4)
    backwards.update(torch.arange(4).flip(0), DEVIATIONS.flip(0))
    assert backwards.choose(POOL[4:40], 0, 1, POOL) == whole
    assert seen().choose(POOL[4:40], 0, 2, POOL) != whole
    seed_everything(4, verbose=False)
    assert seen().choose(POOL[4:40], 0, 1, POOL) != whole


def test_nothing_is_replaced_without_a_share_or_a_prompt_that_teaches() -> None:
    assert seen(0.0).choose(POOL[4:9], 0, 1, POOL) == POOL[4:9]
    nothing = Curriculum(0.9)
    assert nothing.choose(POOL[4:9], 0, 1, POOL) == POOL[4:9]
    nothing.update(torch.tensor([1, 2]), torch.tensor([0.0, math.nan]))
    assert nothing.deviations == {1: 0.0} and nothing.choose(POOL[4:9], 0, 1, POOL) == POOL[4:9]


def test_what_is_known_of_a_prompt_fades_and_survives_a_checkpoint() -> None:
    curriculum = seen()
    curriculum.update(torch.tensor([2, 7]), torch.tensor([0.1, 0.2]))
    assert curriculum.deviations == pytest.approx({0: 0, 1: 0, 2: 0.3, 3: 0.3, 7: 0.2})
    again = Curriculum(0.4)
    again.load_state_dict(curriculum.state_dict())
    assert again.choose(POOL[8:40], 0, 1, POOL) == curriculum.choose(POOL[8:40], 0, 1, POOL)


def test_a_prompt_is_found_by_its_number_where_others_were_left_out() -> None:
    seed_everything(0, verbose=False)
    for pool in (POOL[2:10], POOL[:10][::-1]):
        chosen = seen(0.99).choose(POOL[4:8], 0, 1, pool)
        assert {prompt.columns["index"] for prompt in chosen} <= {2, 3, 4, 5, 6, 7}


def run(folder: Path, *callbacks: Any, **options: Any) -> Any:
    settings = {"num_generations": 4, "micro_batch_size": 16, "sampling": SamplingParams(6), "lr": 1e-2}
    module = grpo(folder, curriculum=0.5, **settings)
    ckpt_path = options.pop("ckpt_path", None)
    if ckpt_path is None:
        fit(module, TinyTask(), folder, *callbacks, max_epochs=3, **options)
    else:
        trainer(folder, *callbacks, max_epochs=3, **options).fit(module, TinyTask(), ckpt_path=ckpt_path)
    return module


def test_a_run_draws_again_and_resumes_with_what_it_knew(tmp_path: Path) -> None:
    recorder = Recorder()
    saved = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    whole = run(tmp_path, recorder, saved, enable_checkpointing=True)
    drawn = [metrics["curriculum/drawn_again"] for metrics in recorder.metrics]
    assert drawn[0] == 0 and sum(drawn) > 3
    resumed = run(tmp_path, ckpt_path=str(tmp_path / "step=3.ckpt"))
    known = resumed.collector.sampler.curriculum.deviations
    assert known and known == whole.collector.sampler.curriculum.deviations
    for name, value in weights(resumed).items():
        torch.testing.assert_close(value, weights(whole)[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"curriculum": 1.0}, r"model\.curriculum=1\.0 is a share"),
        ({"curriculum": -0.1}, r"model\.curriculum=-0\.1 is a share"),
        ({"curriculum": 0.5, "advantage": "gae"}, "curriculum looks at groups"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        grpo(tmp_path, **settings)
