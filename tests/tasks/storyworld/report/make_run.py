"""A recipe's out folder as a run leaves it, made up from a seed."""

import csv
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lit_narrative.files import write_json, write_jsonl, write_text
from lit_narrative.tasks.storyworld.generator import Skew, example

COMPONENTS = ("valid_json", "schema", "structure", "effects", "secrets", "endings")
CORPUS = dict(zip(COMPONENTS, (1.0, 0.98, 0.85, 0.55, 0.31, 0.54), strict=True))
SFT = dict(zip(COMPONENTS, (0.836, 0.71, 0.69, 0.30, 0.23, 0.41), strict=True))
FINAL = dict(zip(COMPONENTS, (0.879, 0.79, 0.76, 0.49, 0.73, 0.62), strict=True))
WEIGHTS = dict(zip(COMPONENTS, (0.30, 0.15, 0.15, 0.15, 0.15, 0.10), strict=True))
STAGES = ("parses", "no_error", "two_endings", "live_gate", "sound")
SOUND = {
    "corpus": (1.0, 1.0, 0.68, 0.32, 0.32),
    "sft": (0.83, 0.3, 0.1, 0.05, 0.04),
    "final": (0.88, 0.75, 0.66, 0.5, 0.45),
}
"""The funnel of each set of texts, made up."""
RICH = Skew(encounters=(0, 0.2, 0.4, 0.3, 0.1), second_ending=0.8, gates=0.6, variables=(0, 0.2, 0.8), dangling=0.1)
POOR = Skew(dangling=0.3, unreferenced=0.25, gates=0.1)
CYCLES, STEPS = 3, 14


def make_run(out: Path, seed: int = 0, significant: bool = True) -> Path:
    """Write the folder and return it; without ``significant`` no SAE feature tells anything."""
    rng = np.random.default_rng(seed)
    make_test(out / "test_sft", SFT, POOR, (0.65, 0.98, 0.22), rng, "sft")
    make_test(out / "test_final", FINAL, RICH, (0.72, 0.95, 0.11), rng, "final")
    make_warm_start(out / "sft", rng)
    make_cycles(out / "cycle", rng, significant)
    for place, (job, seconds) in enumerate({"sft": 62.0, "test_sft": 9.5, "cycle": 120.0, "test_final": 10.0}.items()):
        write_json(out / job / "job.json", {"digest": "0", "finished": 1.7e9 + 100 * place, "seconds": seconds})
    return out


def total(components: Mapping[str, float]) -> float:
    return sum(WEIGHTS[name] * components[name] for name in COMPONENTS)


def soundness(side: str) -> dict[str, Any]:
    funnel = dict(zip(STAGES, SOUND[side], strict=True))
    shares = {**funnel, "playable": funnel["two_endings"], "no_dead_end": 0.9}
    return {
        **shares,
        "funnel": funnel,
        "effective_shapes": 61.5,
        "commonest_shape": 0.07,
        "encounters": 4.4,
        "adherence": 0.9,
    }


def make_test(
    job: Path,
    means: Mapping[str, float],
    skew: Skew,
    shares: tuple[float, float, float],
    rng: np.random.Generator,
    side: str,
) -> None:
    lenient, names, skeleton = shares
    reward = total(means)
    figures = {
        "n": 256,
        "reward": reward,
        "reward_ci": [reward - 0.031, reward + 0.031],
        "original_total": lenient,
        "valid_json": means["valid_json"],
        "unique": 1.0,
        "unique_names": names,
        "unique_skeleton": skeleton,
        "components": dict(means),
        **soundness(side),
        "corpus": {
            "n": 256,
            "reward": total(CORPUS),
            "original_total": 0.75,
            "components": CORPUS,
            **soundness("corpus"),
        },
        "seed": 0,
    }
    write_json(job / "verifiers" / "test.json", figures)
    write_jsonl(job / "samples" / "test.jsonl", [make_sample(index, means, skew, rng) for index in range(16)])


def make_sample(index: int, means: Mapping[str, float], skew: Skew, rng: np.random.Generator) -> dict[str, Any]:
    premise = example(index, 0, skew, "test")
    text, finished = premise.completion, bool(rng.random() < means["valid_json"])
    if not finished:
        text = text[: len(text) // 2]
    components = {name: float(np.clip(rng.normal(means[name], 0.15), 0, 1)) * finished for name in COMPONENTS}
    issues = [{"path": "$", "message": "not JSON: Unterminated string (line 1, column 512)", "severity": "error"}]
    if finished:
        fault = {"path": "$.encounters[2].options[1]", "message": "dangling reference", "severity": "error"}
        issues = [fault] * int(rng.integers(0, 8))
    return {
        "prompt": example(index, 0, None, "test").prompt,
        "text": text,
        "reward": total(components),
        "components": components,
        "issues": issues,
        "finished": finished,
    }


def make_warm_start(job: Path, rng: np.random.Generator) -> None:
    rows = [
        {"step": step, "epoch": 0, "loss": 0.7 + 5 * np.exp(-step / 120) + rng.normal(0, 0.05)}
        for step in range(9, 700, 10)
    ]
    rows += [
        {"step": step, "epoch": 0, "val/perplexity": 1.9 + 40 * np.exp(-step / 90)} for step in range(99, 700, 100)
    ]
    write_table(job / "metrics.csv", rows)
    write_text(
        job / "config.yaml", "seed_everything: 0\nmodel:\n  class_path: SFTModule\n  init_args:\n    lr: 0.003\n"
    )


def make_cycles(job: Path, rng: np.random.Generator, significant: bool) -> None:
    steps = CYCLES * STEPS
    rows = [training_row(step, step / (steps - 1), rng) for step in range(steps)]
    for cycle in range(CYCLES):
        done = (cycle + 1) / CYCLES
        last = {"step": (cycle + 1) * STEPS - 1, "epoch": cycle}
        validation = {f"val/components/{name}": between(name, done) for name in COMPONENTS}
        rows.append({**last, "val/verifiers": total(SFT) + 0.13 * done, **validation})
        rows.append({**last, **cycle_row(cycle, done)})
        write_json(job / "sae" / f"cycle_{cycle:03d}" / "features.json", make_features(cycle, rng, significant))
    write_table(job / "metrics.csv", rows)
    write_table(job / "samples" / "train.csv", make_rollouts(steps, rng))
    write_text(
        job / "config.yaml",
        "seed_everything: 0\nmodel:\n  class_path: GRPOModule\n  init_args:\n    loss:\n      beta: 0.04\n",
    )


def make_rollouts(step: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for index, advantage in enumerate((0.87, -0.87, None)):
        premise, rewards = example(index, 1, RICH, "train"), {f"rewards/{name}": rng.random() for name in COMPONENTS}
        rows.append(
            {
                "step": step,
                "prompt": premise.prompt,
                "text": premise.completion,
                "reward": 0.5 + (advantage or 0) / 4,
                **rewards,
                "rewards/feature_quality": None if advantage is None else 0.41,
                "advantage": advantage,
                "finished": index != 1,
            }
        )
    return rows


def cycle_row(cycle: int, done: float) -> dict[str, float]:
    row = {"number": cycle, "worlds": 128, "valid_worlds": 105 + cycle, "states": 1200 + 40 * cycle, "skipped": 0}
    row |= {"reward": total(SFT) + 0.13 * done, "refresh_share": 0.11}
    row |= {"improvement": 0.13 / CYCLES} if cycle else {}
    return {f"cycle/{name}": value for name, value in row.items()}


def between(name: str, done: float) -> float:
    return SFT[name] + (FINAL[name] - SFT[name]) * done


def training_row(step: int, done: float, rng: np.random.Generator) -> dict[str, Any]:
    components = {name: float(np.clip(between(name, done) + rng.normal(0, 0.03), 0, 1)) for name in COMPONENTS}
    return {
        "step": step,
        "epoch": step // STEPS,
        "reward": total(components),
        "reward_std": 0.12 + rng.normal(0, 0.01),
        **{f"rewards/{name}/mean": value for name, value in components.items()},
        "rewards/feature_quality/mean": 0.4 + 0.2 * done + rng.normal(0, 0.02),
        "kl": 0.09 * done + abs(rng.normal(0, 0.004)),
        "entropy": 0.62 - 0.17 * done + rng.normal(0, 0.01),
        "completions/mean_length": 112 + 14 * done + rng.normal(0, 2),
        "completions/clipped_ratio": 0.11 - 0.06 * done,
        "grad_norm": 0.8 + abs(rng.normal(0, 0.2)),
        "loss": rng.normal(0, 0.01),
    }


def make_features(cycle: int, rng: np.random.Generator, significant: bool) -> dict[str, Any]:
    density = np.where(rng.random(128) < 0.2, 0.0, 10 ** rng.uniform(-3, -0.2, 128))
    features = [
        make_feature(int(latent), rank, rng, significant) for rank, latent in enumerate(rng.permutation(128)[:16])
    ]
    return {
        "cycle": cycle,
        "metrics": {
            "explained_variance": 0.97,
            "explained_variance_heldout": 0.78 + 0.02 * cycle,
            "l0": 8.0,
            "dead_fraction": 0.31 - 0.06 * cycle,
            "mse": 0.03,
        },
        "density": density.round(4).tolist(),
        "readout": {"sae": 0.51 + 0.15 * cycle, "raw": 0.60 + 0.15 * cycle, "permuted": 0.50 + rng.normal(0, 0.02)},
        "matched_cosine": None if cycle == 0 else 0.81,
        "features": features,
        "significant": sum(feature["significant"] for feature in features),
        "targets": "some option is closed here",
    }


def make_feature(latent: int, rank: int, rng: np.random.Generator, significant: bool) -> dict[str, Any]:
    tells = significant and rank < 3
    states = [
        {
            "activation": 3.1 - 0.4 * place,
            "encounter": ["storm", "cellar", "gate"][place],
            "text": "The lamp gutters as the storm rises over the harbour.",
            "open": ["Wait for Mara."],
            "closed": ["Trust Teo."] if tells else [],
        }
        for place in range(3)
    ]
    return {
        "latent": latent,
        "density": float(rng.uniform(0.01, 0.3)),
        "correlation": -0.41 if tells else float(rng.normal(0, 0.05)),
        "conditional_mi": 0.06 if tells else 0.002,
        "normalised_mi": 0.1 if tells else 0.003,
        "p": 0.005 if tells else 0.4,
        "q": 0.03 if tells else 0.62,
        "significant": tells,
        "top_states": states,
    }


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def edit_json(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file in place."""
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")


if __name__ == "__main__":
    make_run(Path(sys.argv[1]))
