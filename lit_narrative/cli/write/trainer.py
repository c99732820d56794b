"""``lit-narrative write``: write with a model, step by step, in the terminal."""

from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from itertools import count
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer

from lit_narrative.cli.write.engine import WriteEngine
from lit_narrative.cli.write.loop import WriteLoop
from lit_narrative.cli.write.screen import WriteScreen
from lit_narrative.cli.write.session import WriteSession, plain_settings
from lit_narrative.datamodules.base import TaskDataModule
from lit_narrative.errors import UserError, check_least
from lit_narrative.lm.load import ScratchModel
from lit_narrative.modules.language import LanguageModule
from lit_narrative.modules.steering import SteeringModule
from lit_narrative.seeds import run_seed, stream_seed

CANDIDATES, LENGTH = 4, 20


class WriteTrainer(Trainer):
    """A Trainer that writes with a person: its device and precision are used, and nothing is trained."""

    def write(
        self,
        model: LightningModule,
        datamodule: TaskDataModule,
        ckpt_path: str | None = None,
        session: str | None = None,
        prompt: str | None = None,
        candidates: int | None = None,
        length: int | None = None,
    ) -> None:
        """Write with a model in the terminal, step by step.

        Args:
            model: what writes.
            datamodule: whose prompts and topics there are.
            ckpt_path: a checkpoint whose model writes; default: the one that the model's settings name.
            session: file of the session; one that is there is resumed. Default: a new one in the run folder.
            prompt: how a new text begins; default: the task's first prompt.
            candidates: how many are shown at each step; default 4, or as the session has it.
            length: tokens of a step, at most; default 20, or as many as the model's settings sample where the task's
                texts are written at once (worlds), or as the session has it.

        Raises:
            UserError: there is no model, or no session to resume.
        """
        check_least("--candidates", candidates, 1)
        check_least("--length", length, 1)
        path = Path(session) if session else free_path(Path(self.default_root_dir))
        old = WriteSession.read(path) if path.exists() else None
        if old and prompt is not None:
            raise UserError(f"{path} has its text already; leave --prompt out, and begin a new one by e")
        engine = WriteEngine(self._prepared(model, datamodule, ckpt_path or self.ckpt_path), datamodule)
        screen, name = WriteScreen(), _name(model, self.ckpt_path)
        if find_spec("readline"):  # arrow keys and earlier lines in `input`; Windows has its own
            import_module("readline")
        if old is None:
            usual = engine.module.sampling.max_new_tokens if datamodule.whole_texts else LENGTH
            old = _begin(engine, path, name, prompt, candidates or CANDIDATES, length or usual)
        elif old.model != name:
            screen.say(f"{path} was begun with the model {old.model}; now it is {name}, which writes other candidates")
        changed = replace(old.settings, shown=candidates or old.settings.shown, length=length or old.settings.length)
        if changed != old.settings:
            old.record("set", settings=plain_settings(changed))
        WriteLoop(engine, old, screen, input).run()

    def _prepared(
        self, model: LightningModule, datamodule: TaskDataModule, checkpoint: str | Path | None
    ) -> SteeringModule:
        """The model, loaded and ready to be steered."""
        if not isinstance(model, LanguageModule):
            raise UserError(f"{type(model).__name__} writes no text; take SteeringModule, SFTModule or GRPOModule")
        # A checkpoint's adapters are merged when it is read; new ones would be random, and nothing here is trained.
        source = replace(model.source, lora=None, gradient_checkpointing=False)
        if checkpoint is not None:
            source = replace(source, model=str(checkpoint), tokenizer=None)
        if isinstance(source.model, ScratchModel) or source.trains_tokenizer:
            raise UserError(
                "the model of this configuration is still to be trained; give what was trained, by --ckpt_path or "
                "--model.model"
            )
        steering = model if isinstance(model, SteeringModule) else _unsteered(model, source.model)
        steering.set_model(*source.build())
        self.datamodule, steering.trainer = datamodule, self
        self.precision_plugin.convert_module(steering).to(self.strategy.root_device)
        return steering


def free_path(folder: Path) -> Path:
    """A file for a new session."""
    return next(path for number in count(1) if not (path := folder / f"write-{number}.jsonl").exists())


def _unsteered(model: LanguageModule, name: str) -> SteeringModule:
    """What steers the model of another module: at first nothing does."""
    return SteeringModule(
        method="none",
        model=name,
        sampling=model.sampling,
        chat=model.chat,
        max_prompt_length=model.max_prompt_length,
        long_prompts=model.long_prompts,
    )


def _name(model: LightningModule, checkpoint: str | Path | None) -> str:
    assert isinstance(model, LanguageModule)
    return str(checkpoint or model.source.model)


def _begin(
    engine: WriteEngine, path: Path, name: str, prompt: str | None, candidates: int, length: int
) -> WriteSession:
    """A new session, if its first candidates can be drawn; Ctrl-C leaves none."""
    session, seed = WriteSession(path), run_seed()
    position = engine.beginning(0, None if prompt is None else prompt.replace("\\n", "\n"))
    try:
        # Drawn before the session is written: a model that cannot be steered so leaves no file behind.
        settings, _ = engine.draw(position, engine.first_settings(candidates, length), stream_seed(seed, 0, 0))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    session.record(
        "begin", seed=seed, model=name, text=position.text, number=position.number, settings=plain_settings(settings)
    )
    return session
