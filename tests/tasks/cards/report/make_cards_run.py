"""An out folder of the recipe ``cards``, its answers made up from a seed and judged by the functions of SetEvaluation.

``python -m tests.tasks.cards.report.make_cards_run OUT`` writes one.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from lit_narrative.callbacks.set_evaluation import set_record
from lit_narrative.datamodules.base import Answered
from lit_narrative.datamodules.cards import CardsData
from lit_narrative.files import write_json, write_jsonl, write_text
from lit_narrative.tasks.cards.game import TEST_SETS, CardGame
from lit_narrative.views import Prompt, Rollout
from tests.tasks.storyworld.report.make_run import write_table

MIX = {"id": 0.3, "paraphrase": 0.4, "new_colors": 0.3}
SKILL: Mapping[str, tuple[float, Mapping[str, float]]] = {
    "sft": (0.0, {"id_test": 0.98}),
    "more": (0.0, {"id_test": 0.98}),
    "grpo": (0.0, {"id_test": 0.95, "paraphrase": 0.6, "paraphrase_mix": 0.9}),
    "drift": (1.0, {}),
}
"""By policy: how often it answers 0 where it does not know, and how often it knows (0.05 on the sets not named)."""


def make_cards_run(
    out: Path, seeds: Sequence[int] = (0, 1), policies: Sequence[str] = ("sft", "more", "grpo"), size: int = 60
) -> Path:
    """Write the folder and return it; without ``seeds`` the jobs lie in it directly."""
    for folder in [out / f"seed_{seed}" for seed in seeds] or [out]:
        for place, name in enumerate(policies):
            make_policy(folder, name, np.random.default_rng([sum(folder.name.encode()), place]), place, size)
        make_circuits(folder / "circuits_sft")
    write_json(out / "recipe.json", {"recipe": "own.yaml", "seeds": [7], "set": ["sft.model.init_args.lr=0.5"]})
    return out


def make_policy(folder: Path, name: str, rng: np.random.Generator, place: int, size: int) -> None:
    """Write a training job and the test of what it made."""
    reinforced = name.startswith("grpo")
    data = cards(size, MIX if reinforced else None)
    known = SKILL[name][1]
    answers = {
        split: [answer(prompt, known.get(split, 0.05), SKILL[name][0], rng) for prompt in data.named_prompts(split)]
        for split in TEST_SETS
    }
    scores = {split: data.measure(split, rows) for split, rows in answers.items()}
    test, job = folder / f"test_{name}", folder / name
    write_json(test / "eval" / "test.json", set_record(data, "test", 0, scores))
    rows = [{"set": split, **data.answer_row(row)} for split, rows in answers.items() for row in rows]
    write_jsonl(test / "eval" / "test.jsonl", rows)
    module = "lit_narrative.modules.grpo.GRPOModule" if reinforced else "lit_narrative.modules.sft.SFTModule"
    group = "    num_generations: 4\n" if reinforced else ""
    mix = "".join(f"      {kind}: {weight}\n" for kind, weight in data.mix.items())
    config = (
        f"trainer:\n  accumulate_grad_batches: 1\nmodel:\n  class_path: {module}\n  init_args:\n    lr: 0.01\n{group}"
        "data:\n  class_path: lit_narrative.datamodules.cards.CardsData\n"
        f"  init_args:\n    batch_size: 8\n    mix:\n{mix}"
    )
    write_text(job / "config.yaml", config)
    write_table(job / "metrics.csv", [{"step": step, "loss": 1.0} for step in range(10)])
    for one, seconds in ((job, 60.5), (test, 8.0)):
        write_json(one / "job.json", {"digest": "0", "finished": 1.7e9 + 100 * place + seconds, "seconds": seconds})


def cards(size: int, mix: dict[str, float] | None = None) -> CardsData:
    game = CardGame({"classification": ["sum_above_13"]}, (2, 4), (6, 8))
    return CardsData(game=game, train_size=8, test_size=size, mix=mix)


def answer(prompt: Prompt, knows: float, zero: float, rng: np.random.Generator) -> Answered:
    """The worked answer, or else 0, or else a total that is off by one."""
    if rng.random() < knows:
        text = str(prompt.columns["reference"])
    elif rng.random() < zero:
        text = " 0 ; 0"
    else:
        text = " 1 ; " + str(int(rng.integers(-20, 20)))
    nothing = torch.zeros(0)
    rollout = Rollout(nothing.long(), nothing.long(), nothing, True, text, prompt.text, prompt.columns)
    return Answered(rollout, 0.9, -1.0)


def make_circuits(job: Path) -> None:
    figures = {"probes/selectivity": 0.25, "patching/id_test/recovery": 0.75, "own/figure": 1.5}
    errors = {"sae": "callback CircuitAnalysis: sae: 2 rows are too few"}
    figures |= {"ablation/new_colors/jaccard": 0.5, "patching/compositional/recovery": 2.04}
    write_json(job / "circuits" / "manifest.json", {"figures": figures, "errors": errors})
    write_json(job / "circuits" / "jaccard.json", {"weak_splits": ["new_colors"]})
    for split, corrupt in (("id_test", -2.0), ("compositional", 0.5)):
        write_json(job / "circuits" / split / "patching.json", {"logit_diff": {"clean": 2.0, "corrupt": corrupt}})
    write_text(job / "circuits" / "index.html", "<!doctype html>")


if __name__ == "__main__":
    make_cards_run(Path(sys.argv[1]), size=300, policies=tuple(SKILL))
