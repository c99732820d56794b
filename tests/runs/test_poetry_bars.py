"""Steered, rewarded and tuned verse on the grammar: what each way reaches on three seeds, against what it has to.

A seed is of the model, its training and its samples; the judge is a fourth model of other poems. All seeds are asked
the same prompts. Bars hold for the mean over seeds. The test's output, and ``bars.json`` in its folder, have the mean,
the ends of its interval (bootstrap over seeds and prompts), and the seeds.

    python -m pytest -m slow -s tests/runs/test_poetry_bars.py
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from lit_narrative.cli.main import main
from lit_narrative.datamodules.poetry import PoetryData
from lit_narrative.files import read_table, write_json
from lit_narrative.modules.sft import SFTModule
from lit_narrative.rl.rewards.learned import LearnedReward
from lit_narrative.tasks.poetry.grammar import content_share
from lit_narrative.tasks.poetry.topics import TOPICS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

SEEDS = (0, 1, 2)
QUIET = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
VERIFIED = "--trainer.callbacks=[{class_path: Verifiers}]"
OCEAN = TOPICS["ocean"].words
PPLM = ["--model.pplm.stepsize=0.2", "--model.pplm.kl_scale=1"]
HEAD = ["--model.pplm={gamma: 1.0, gm_scale: 0.95, kl_scale: 0.01, num_iterations: 10, stepsize: 0.05}"]
PROXY = ["--data.topics=[ocean]", "--model.sampling.max_new_tokens=64"]

Floats = npt.NDArray[np.float64]


@dataclass
class Arm:
    """What an arm wrote and how it was scored, seed by seed."""

    samples: list[list[dict[str, object]]] = field(default_factory=list)
    metrics: list[dict[str, float]] = field(default_factory=list)

    def scores(self, name: str) -> Floats:
        """(seeds, prompts) scores by a verifier."""
        return np.array([[row["components"][name] for row in rows] for rows in self.samples])  # type: ignore[index]

    def texts(self) -> list[list[str]]:
        """What was written, by seed."""
        return [[str(row["text"]) for row in rows] for rows in self.samples]

    def logged(self, name: str) -> Floats:
        """(seeds,) a metric of the test."""
        return np.array([found[f"test/{name}"] for found in self.metrics])


def fit(config: str, folder: Path, seed: int, *more: str) -> str:
    main(
        ["fit", "--config", config, *QUIET, f"--seed_everything={seed}", f"--trainer.default_root_dir={folder}", *more]
    )
    return str(folder / "checkpoints" / "last.ckpt")


def steered(arm: Arm, folder: Path, model: str, seed: int, *more: str) -> None:
    """Test a model under ``poetry/steer`` and add what came of it."""
    given = [f"--model.model={model}", "--data.test_size=120", "--data.eval_batch_size=120", VERIFIED]
    place = [f"--seed_everything={seed}", f"--trainer.default_root_dir={folder}"]
    main(["test", "--config", "poetry/steer", *QUIET, *given, *place, *more])
    (row,) = read_table(folder / "metrics_test.csv")
    arm.metrics.append({name: float(value) for name, value in row.items()})
    arm.samples.append([json.loads(line) for line in (folder / "samples" / "test.jsonl").read_text().splitlines()])


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of everything that these tests leave."""
    return tmp_path_factory.mktemp("bars")


@pytest.fixture(scope="session")
def authors(folder: Path) -> list[str]:
    """A model of each seed."""
    return [fit("poetry/sft", folder / f"sft_{seed}", seed) for seed in SEEDS]


@pytest.fixture(scope="session")
def arms(folder: Path, authors: Sequence[str]) -> Mapping[str, Arm]:
    """Base and steered arms, every prompt on its own topic."""
    judge = fit("poetry/sft", folder / "judge", 100, "--data.seed=100")
    found = {name: Arm() for name in ("base", "pplm", "auto", "bias", "head")}
    for seed, author in zip(SEEDS, authors, strict=True):
        head = fit("poetry/attribute", folder / f"head_{seed}", seed, f"--model.model={author}")
        attribute = f"--model.attributes=[{{column: null, head: {head}, label: topic}}]"
        ways = {
            "base": ["--model.method=none"],
            "pplm": PPLM,
            "auto": ["--model.pplm.stepsize=auto"],
            "bias": ["--model.method=bias"],
            "head": [*HEAD, attribute],
        }
        for name, way in ways.items():
            steered(found[name], folder / f"{name}_{seed}", author, seed, f"--model.judge={judge}", *way)
    return found


@pytest.fixture(scope="session")
def tuned(folder: Path, authors: Sequence[str]) -> Mapping[str, Arm]:
    """All prompts on the sea: the models as they are, tuned by what a learned reward prefers, and that under PPLM."""
    found = {name: Arm() for name in ("base", "pplm", "rlhf", "hybrid")}
    for seed, author in zip(SEEDS, authors, strict=True):
        reward = fit("poetry/reward", folder / f"reward_{seed}", seed)
        written = folder / f"samples_{seed}"
        judge = f"lit_narrative.rl.rewards.learned:LearnedReward(checkpoint='{reward}', name='learned')"
        given = [f"--seed_everything={seed}", f"--model.model={author}", f"--trainer.default_root_dir={written}"]
        rewards = f'--trainer.callbacks=[{{class_path: Verifiers, init_args: {{rewards: ["{judge}"]}}}}]'
        main(["predict", "--config", "poetry/samples", *QUIET, *given, rewards])
        file = f"--data.preferred.file={written / 'samples' / 'predict.jsonl'}"
        proxy = fit("poetry/prefer", folder / f"prefer_{seed}", seed, f"--model.model={author}", file)
        for name, model, way in (
            ("base", author, ["--model.method=none"]),
            ("pplm", author, PPLM),
            ("rlhf", proxy, ["--model.method=none"]),
            ("hybrid", proxy, PPLM),
        ):
            steered(found[name], folder / f"sea_{name}_{seed}", model, seed, f"--model.base={author}", *PROXY, *way)
    return found


def ratio(arm: Floats, base: Floats | float = 1.0, draws: int = 2000) -> list[float]:
    """Mean of the arm over mean of the base: over all, the ends of its 95 % interval, and seed by seed.

    Both are (seeds, prompts); without a base it is the mean of the arm.
    """
    base = np.broadcast_to(base, arm.shape)
    rng, drawn = np.random.default_rng(0), []
    for _ in range(draws):
        place = np.ix_(*(rng.integers(size, size=size) for size in arm.shape))
        drawn.append(arm[place].mean() / base[place].mean())
    ends = np.quantile(drawn, [0.025, 0.975])
    return [round(float(v), 3) for v in (arm.mean() / base.mean(), *ends, *(arm.mean(1) / base.mean(1)))]


def report(folder: Path, name: str, found: Mapping[str, Sequence[float]]) -> None:
    """Write figures out, and keep them beside those of other tests."""
    path = folder / "bars.json"
    known = json.loads(path.read_text()) if path.is_file() else {}
    write_json(path, {**known, name: found})
    lines = [f"  {key:<22}{'  '.join(f'{value:7.3f}' for value in values)}" for key, values in found.items()]
    sys.stdout.write("\n".join(["", name, *lines, ""]))


def against(arm: Arm, base: Arm) -> dict[str, list[float]]:
    """The figures of an arm: mean, interval, seeds; times those of the base; perplexities seed by seed."""
    names = {"topic_share": "bag", "held_out": "held out", "on_topic": "topic accuracy", "grammatical": "grammatical"}
    found = {said: ratio(arm.scores(name)) for name, said in names.items()}
    found |= {f"{said}, x": ratio(arm.scores(name), base.scores(name)) for name, said in names.items()}
    for name in ("judge_perplexity", "distinct_2"):
        found[f"{name}, x"] = [x(arm.logged(name), base.logged(name)), *(arm.logged(name) / base.logged(name))]
    for name in ("judge_perplexity", "steering/kl", "steering/passes_per_token"):
        found[name] = arm.logged(name).tolist()
    return found


def x(arm: Floats, base: Floats) -> float:
    """How many times the mean of the base."""
    return float(arm.mean() / base.mean())


def moves_the_topic_and_keeps_the_language(arm: Arm, base: Arm) -> None:
    """The bars of PPLM."""
    assert x(arm.scores("topic_share"), base.scores("topic_share")) >= 2.0
    assert x(arm.scores("held_out"), base.scores("held_out")) >= 1.7
    assert x(arm.logged("judge_perplexity"), base.logged("judge_perplexity")) <= 1.25
    assert arm.scores("grammatical").mean() >= 0.78
    assert x(arm.scores("grammatical"), base.scores("grammatical")) >= 0.85
    assert arm.scores("on_topic").mean() >= 0.40
    assert x(arm.logged("distinct_2"), base.logged("distinct_2")) >= 0.9


def test_pplm_by_a_bag(folder: Path, arms: Mapping[str, Arm]) -> None:
    report(folder, "PPLM, step 0.2, kl_scale 1", against(arms["pplm"], arms["base"]))
    moves_the_topic_and_keeps_the_language(arms["pplm"], arms["base"])


def test_pplm_by_a_discriminator(folder: Path, arms: Mapping[str, Arm]) -> None:
    report(folder, "PPLM with a head, step 0.05", against(arms["head"], arms["base"]))
    moves_the_topic_and_keeps_the_language(arms["head"], arms["base"])


def test_auto_reaches_its_divergence(folder: Path, arms: Mapping[str, Arm]) -> None:
    arm = arms["auto"]
    steps = {"step": arm.logged("steering/stepsize").round(3).tolist()}
    report(folder, "PPLM, step auto, target 0.03 nats", against(arm, arms["base"]) | steps)
    for reached in arm.logged("steering/kl"):
        assert 0.015 <= reached <= 0.06


def test_logit_bias_raises_the_words_and_not_the_topic(folder: Path, arms: Mapping[str, Arm]) -> None:
    arm, base = arms["bias"], arms["base"]
    report(folder, "logit bias 2, the control", against(arm, base))
    assert x(arm.scores("topic_share"), base.scores("topic_share")) >= 2.0
    assert x(arm.scores("held_out"), base.scores("held_out")) <= 1.3


def sea(arm: Arm) -> Floats:
    """(seeds, prompts) what was rated: the share of a text's content words that are of the sea."""
    return np.array([[content_share(text, OCEAN) for text in texts] for texts in arm.texts()])


def test_imitating_what_the_reward_prefers_doubles_the_score(folder: Path, tuned: Mapping[str, Arm]) -> None:
    found = {name: ratio(sea(arm)) for name, arm in tuned.items()}
    found |= {f"{name}, x": ratio(sea(arm), sea(tuned["base"])) for name, arm in tuned.items()}
    found |= {f"{name}, grammatical": ratio(arm.scores("grammatical")) for name, arm in tuned.items()}
    found |= {f"{name}, KL from base": arm.logged("base_kl").tolist() for name, arm in tuned.items()}
    report(folder, "share of content words that are of the sea", found)
    assert x(sea(tuned["rlhf"]), sea(tuned["base"])) >= 2.0
    assert tuned["rlhf"].scores("grammatical").mean() >= 0.85 * tuned["base"].scores("grammatical").mean()


def test_the_arms_differ_in_their_weights_as_they_should(tuned: Mapping[str, Arm]) -> None:
    moved = {name: arm.logged("weights_moved") for name, arm in tuned.items()}
    assert (moved["base"] == 0).all()
    assert (moved["pplm"] == 0).all()
    assert (moved["rlhf"] > 1e-3).all()
    assert (moved["hybrid"] == moved["rlhf"]).all()
    assert sea(tuned["hybrid"]).mean() > sea(tuned["pplm"]).mean()
    assert not np.array_equal(tuned["hybrid"].texts(), tuned["rlhf"].texts())


def test_the_best_of_sixteen_by_the_learned_reward(folder: Path, authors: Sequence[str], tuned: object) -> None:
    """At least 2.5 times the mean score, and 80 % of the best choice there was."""
    prompts = PoetryData(topics=["ocean"], test_size=40).prompts("test")
    gains, shares = [], []
    for seed, author in zip(SEEDS, authors, strict=True):
        module = SFTModule.load_from_checkpoint(author, map_location="cpu")
        rollouts = module.generate(prompts, samples=16, seed=seed)
        reward = LearnedReward(str(folder / f"reward_{seed}" / "checkpoints" / "last.ckpt"))
        learned = np.array(reward(rollouts)).reshape(len(prompts), 16)
        true = np.array([content_share(rollout.text, OCEAN) for rollout in rollouts]).reshape(len(prompts), 16)
        chosen = true[np.arange(len(prompts)), learned.argmax(1)].mean()
        gains.append(float(chosen / true.mean()))
        shares.append(float(chosen / true.max(1).mean()))
    report(folder, "best of 16", {"x the mean": gains, "of the best there was": shares})
    assert np.mean(gains) >= 2.5
    assert np.mean(shares) >= 0.8
