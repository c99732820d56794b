"""The stages of a verbalizer on stories, small: subject, activations, actor and critic by imitation, then by reward."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_narrative.callbacks.critic_training import CriticTraining
from lit_narrative.cli.commands.extract import extract
from lit_narrative.datamodules.verbalize import VerbalizeData
from lit_narrative.lm.load import ScratchModel
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.lm.tokenizer import TrainedTokenizer
from lit_narrative.lm.vectors.fve import FVE
from lit_narrative.lm.vectors.inject import InjectionSettings
from lit_narrative.lm.vectors.reconstructor import Reconstructor
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.modules.reconstructor import ReconstructorModule
from lit_narrative.modules.sft import SFTModule
from lit_narrative.rl.loss_settings import LossSettings
from lit_narrative.rl.reference import ReferenceSettings
from lit_narrative.views import Described
from tests.helpers import trainer


@dataclass(frozen=True)
class Size:
    """How large the models are, and how long each stage takes.

    Attributes:
        width: of the subject.
        subject_steps: of its training.
        documents: whose activations are read, ten each.
        steps: of actor and critic by imitation, each.
        batch_size: of those.
        rollouts: rollout batches of 16 prompts and 8 explanations each.
    """

    width: int = 32
    subject_steps: int = 150
    documents: int = 180
    steps: int = 250
    batch_size: int = 64
    rollouts: int = 60


@dataclass(frozen=True)
class Measured:
    """FVE of explanations of held-out activations, their floor, the share that has an explanation, and CPU seconds."""

    fve: float
    shuffled: float
    floor: float
    parsed: float
    seconds: float


class Stages:
    """A verbalizer in ``folder``; each stage is made when it is asked for.

    Args:
        folder: of it.
        seed: of everything.
        size: of everything.
        data: further settings of the data of actor and reward: controls.

    Attributes:
        metrics: of the last training step.
    """

    def __init__(self, folder: Path, seed: int, size: Size = Size(), **data: Any) -> None:
        self.metrics: dict[str, float] = {}
        self.folder, self.seed, self.size, self.data = folder, seed, size, data
        self.began = cpu()

    def fit(self, name: str, module: Any, data: Any, steps: int, *callbacks: Any, **options: Any) -> str:
        """Train a module; the path of its checkpoint."""
        saver = ModelCheckpoint(self.folder / name, save_last=True, save_top_k=0)
        given = {"max_steps": steps, "gradient_clip_val": 1.0, "enable_checkpointing": True, **options}
        seed_everything(self.seed, verbose=False)
        run = trainer(self.folder / name, saver, *callbacks, **given)
        run.fit(module, data)
        self.metrics = {name: float(value) for name, value in run.callback_metrics.items()}
        return str(self.folder / name / "last.ckpt")

    def subject(self) -> str:
        """A language model of stories, and its activations after the second of three blocks."""
        size = ScratchModel("gpt2", self.size.width, layers=3, heads=4, positions=128, seed=self.seed)
        rates: dict[str, Any] = {"lr": 3e-3, "warmup_steps": 20, "schedule": "cosine"}
        module = SFTModule(size, TrainedTokenizer(kind="words"), sampling=SamplingParams(48), **rates)
        path = self.fit("subject", module, VerbalizeData(seed=2 * self.seed, batch_size=32), self.size.subject_steps)
        extract(
            path,
            2,
            to=str(self.folder / "activations"),
            documents=self.size.documents,
            eval_documents=40,
            seed=2 * self.seed + 1,
        )
        return path

    def imitate(self, subject: str) -> tuple[str, str]:
        """Actor and critic that know the teacher's texts."""
        rates: dict[str, Any] = {"lr": 3e-3, "warmup_steps": 20, "schedule": "cosine"}
        injection = InjectionSettings(scale="embed_norm")
        actor = SFTModule(subject, injection=injection, sampling=SamplingParams(10), **rates)
        critic = ReconstructorModule(subject, **rates)
        steps, rows = self.size.steps, self.size.batch_size
        return (
            self.fit("actor", actor, self.activations(batch_size=rows, **self.data), steps),
            self.fit("critic", critic, self.activations(batch_size=rows), steps),
        )

    def reinforce(self, actor: str, critic: str, name: str = "grpo", rollouts: int | None = None, **model: Any) -> str:
        """The actor after rollouts, with a critic that learned along unless ``critic_lr`` is 0."""
        critic_lr, given = model.pop("critic_lr", 3e-4), {"lr": 3e-4, "sampling": SamplingParams(10), **model}
        policy = GRPOModule(
            {"reconstruction": 1.0},
            num_generations=8,
            micro_batch_size=128,
            loss=LossSettings("grpo", beta=0.01),
            reference=ReferenceSettings("copy"),
            model=actor,
            **given,
        )
        data = self.activations(batch_size=16, critic=critic, **self.data)
        along = CriticTraining(lr=critic_lr, weight_decay=0.0 if not critic_lr else 0.01)
        return self.fit(name, policy, data, rollouts or self.size.rollouts, along)

    def activations(self, **settings: Any) -> VerbalizeData:
        """The data of actor and critic."""
        return VerbalizeData(str(self.folder / "activations"), seed=self.seed, **settings)

    def measure(self, actor: str, critic: str) -> Measured:
        """The greedy explanations of all activations of the test documents, read by a critic."""
        read = Reconstructor.load(critic)
        real, parsed, floor = self._fve(actor, read, self.data.get("injected", "real"))
        return Measured(real, self._fve(actor, read, "shuffled")[0], floor, parsed, cpu() - self.began)

    def _fve(self, actor: str, critic: Reconstructor, injected: Any) -> tuple[float, float, float]:
        data = self.activations(**{**self.data, "injected": injected})
        prompts = list(data.view("prompts", "test"))
        kind = SFTModule if actor.endswith("actor/last.ckpt") else GRPOModule
        module = kind.load_from_checkpoint(actor, sampling=SamplingParams(10, temperature=0.01))
        texts = [data.parse(r.text) if r.finished else None for r in module.generate(prompts)]
        metric = FVE(critic.width, critic.scale)
        targets = torch.stack([torch.tensor(prompt.columns["target"]) for prompt in prompts])
        metric.update(critic.reconstruct([text or "" for text in texts]), targets)
        found = metric.compute()
        return float(found["fve"]), sum(map(bool, texts)) / len(texts), float(found["floor"])

    def ceiling(self, critic: str) -> float:
        """FVE of the teacher's texts."""
        rows: list[Described] = list(self.activations().described("test"))
        read = Reconstructor.load(critic)
        metric = FVE(read.width, read.scale)
        metric.update(read.reconstruct([r.text for r in rows]), torch.stack([torch.tensor(r.vector) for r in rows]))
        return float(metric.compute()["fve"])


def cpu() -> float:
    """Seconds of this process on any core."""
    used = os.times()
    return used.user + used.system
