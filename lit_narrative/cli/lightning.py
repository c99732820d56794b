"""``lit-narrative fit | validate | test | predict``: Lightning's command line over the package's classes."""

import logging
import os
import re
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, NoReturn

import yaml
from jsonargparse import Namespace, get_loader, set_loader
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import _get_rank
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from yaml import YAMLError

from lit_narrative.callbacks.evaluation import Verifiers
from lit_narrative.callbacks.writers import PredictionWriter
from lit_narrative.cli.amend import check_values, with_callback_settings
from lit_narrative.cli.folder import LAST, check_unused, check_whole, locked, prepare_folder, shared_scratch
from lit_narrative.cli.job_callbacks import FastestThreads, PredictionLine, console_callbacks
from lit_narrative.cli.job_progress import tell_recipe
from lit_narrative.cli.messages import explain, innermost, option_names
from lit_narrative.cli.names import resolve_configs
from lit_narrative.cli.recipes.meter import pipe_of_recipe
from lit_narrative.cli.run_folder import RunLogger, SaveRun
from lit_narrative.cli.sources import NAMEABLE
from lit_narrative.datamodules.base import TaskDataModule
from lit_narrative.errors import UserError, first_line
from lit_narrative.files import refuse_pipe
from lit_narrative.interrupts import Interrupted, listening, requested
from lit_narrative.lookup import current_path, see_working_directory
from lit_narrative.modules.base import check_precision
from lit_narrative.modules.language import LanguageModule
from lit_narrative.modules.steering import SteeringModule
from lit_narrative.redaction import REDACTED, redact
from lit_narrative.report.run_folder import versions
from lit_narrative.resume import ExactResume

KEYWORDS = {None, "best", "last", "hpc"}
"""The values of ``--ckpt_path`` that are not paths."""
logger = logging.getLogger(__name__)
LIST = re.compile(r"\s*\[\s*\{")
"""The start of a list of settings, as YAML writes it in one line."""


class NarrativeCLI(LightningCLI):
    """Lightning's command line over this package's classes, with a run folder for every job.

    The command line and the YAML win over the hyper-parameters in a checkpoint. Every job keeps its metrics and its
    settings in the run folder, ``trainer.default_root_dir``; other loggers come beside that, not instead of it. A
    dry run (``trainer.fast_dev_run``) has a folder that goes away with it.

    Args:
        args: the command line, from the subcommand on; it is run at once.
        trainer_class: what runs it; a method ``write`` of it is the one subcommand.
    """

    def __init__(self, args: list[str], trainer_class: type[Trainer] = Trainer) -> None:
        self.resources, self.given = ExitStack(), args
        self.recipe = pipe_of_recipe()
        if self.recipe:  # which knows the seed that it gave
            logging.getLogger("lightning.fabric.utilities.seed").setLevel(logging.WARNING)
        with self.resources:
            super().__init__(
                LightningModule,
                TaskDataModule,
                trainer_class=trainer_class,
                subclass_mode_model=True,
                subclass_mode_data=True,
                save_config_callback=SaveRun,
                save_config_kwargs={"save_to_log_dir": False},
                seed_everything_default=0,
                trainer_defaults={"default_root_dir": "runs/default", "callbacks": [FastestThreads()]},
                parser_class=JobParser,
                parser_kwargs={"prog": "lit-narrative"},
                auto_configure_optimizers=False,
                args=args,
            )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override] # static in the original
        """The one subcommand that is run, Lightning's or ``write``, with the arguments that are not settings."""
        if hasattr(self.trainer_class, "write"):
            return {"write": {"model", "datamodule"}}
        # Lightning would make a parser for each of four, which takes as long as reading the settings of one.
        return {name: others for name, others in super().subcommands().items() if name == self.given[0]}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Make a parser whose saved configurations name our versions."""
        return super().init_parser(dump_header=[f"{name}=={number}" for name, number in versions().items()], **kwargs)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse ``args``; unlike the original without a warning when the process has arguments of its own."""
        assert args is None or isinstance(args, list)
        self.config = parser.parse_args(args)
        seed = self.config[self.config.subcommand].get("seed_everything")
        if not isinstance(seed, bool) and seed is not None and not 0 <= seed < 2**32:
            raise UserError(f"seed_everything is {seed}; it must lie in 0..{2**32 - 1}, as numpy's seeds do")

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Tell the trainer of the checkpoint before it starts: a model is built by what its checkpoint says."""
        # Given as an argument, the path would reach `trainer.ckpt_path` only after `configure_model` has asked for it.
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        if kwargs.get("ckpt_path") not in KEYWORDS:
            self.trainer.ckpt_path = kwargs.pop("ckpt_path")
        if self.recipe and "verbose" in kwargs:
            kwargs["verbose"] = False  # the recipe says the figures that matter, and all are in the run folder
        if subcommand == "predict" and kwargs.get("return_predictions") is None:
            kwargs["return_predictions"] = False  # nobody is there to take them, and they would fill the memory
        return kwargs

    def _parse_ckpt_path(self) -> None:
        """Leave the settings as they were given: the original lets those in the checkpoint win."""

    def before_instantiate_classes(self) -> None:
        """Check the checkpoint, the keys, the precision, and that the run folder can be written and is unused.

        Raises:
            UserError: one of them is not so.
        """
        config = self.config[self.config.subcommand]
        _take_own_tokenizer(config.get("model"), self.given)
        checkpoint = config.get("ckpt_path")
        if checkpoint == "best":
            raise UserError(
                "--ckpt_path=best: which checkpoint was the best is known only within the run that made it; name its "
                f"file, under '{config.trainer.default_root_dir}/checkpoints', or 'last'"
            )
        last = Path(config.trainer.default_root_dir, "checkpoints", LAST)
        if checkpoint == "last" and self.config.subcommand != "fit" and not last.exists():
            raise UserError(f"--ckpt_path=last: there is no '{last}'; name the checkpoint's file, or the run's folder")
        if checkpoint not in KEYWORDS and not Path(checkpoint).exists():
            raise UserError(f"there is no checkpoint '{checkpoint}' (--ckpt_path, from {Path.cwd()})")
        for name, value in config.items():
            if REDACTED in str(value):
                raise UserError(
                    f"{name}: a key was hidden here when these settings were stored; give the real value, best by the "
                    "environment (docs/rewards.md)"
                )
        if config.trainer.fast_dev_run:
            config.trainer.default_root_dir = self.resources.enter_context(shared_scratch())
        check_precision(config.trainer.precision, self.config.subcommand == "fit")
        folder = config.trainer.default_root_dir
        prepare_folder(folder)
        if not _get_rank():  # the other processes of a job work in the same folder
            self.resources.enter_context(locked(folder, str(self.config.subcommand)))
        check_whole(folder, checkpoint)
        if self.config.subcommand == "fit" and checkpoint not in KEYWORDS - {None}:
            check_unused(config.trainer.default_root_dir, checkpoint)
        for logger in _as_list(config.trainer.logger):
            if "save_dir" in logger.get("init_args", {}) and logger.init_args.save_dir in {None, "", "."}:
                logger.init_args.save_dir = config.trainer.default_root_dir

    def _dump_config(self) -> None:
        """Keep the settings for the checkpoints; the original would check once more what parsing has checked."""
        if not hasattr(self, "config_dump"):
            stored = self.parser.dump(self.config, skip_link_targets=False, skip_unset=False, skip_validation=True)
            self.config_dump = yaml.safe_load(stored)[self.config.subcommand]

    def instantiate_classes(self) -> None:
        """Build the data, the model and the trainer.

        Raises:
            UserError: one of them, a callback or a logger refuses its settings, or needs a package that is not here.
        """
        try:
            self.config_init = self.parser.instantiate(self.config)
        except ValueError as error:  # jsonargparse wraps what a class in a list of classes has raised
            cause: BaseException | None = error
            while cause and not isinstance(cause, UserError | ImportError):
                cause = cause.__cause__
            if isinstance(cause, ImportError):  # a logger or a callback of Lightning's for a package that is not here
                raise UserError(f"{innermost(str(error)).owner}: {first_line(cause)}") from error
            if cause is None:
                raise
            raise cause from error
        built = self.config_init[self.config.subcommand]
        self.datamodule, self.model = built.get("data"), built.get("model")
        if self.config.subcommand == "fit" and isinstance(self.model, SteeringModule):
            self.model = self.model.classifier()
        self.trainer = self.instantiate_trainer()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the trainer, with the run folder's table of metrics before the other loggers.

        Samples of ``predict`` are written even where no callback does so.

        Raises:
            UserError: the trainer refuses its settings.
        """
        settings = self.config_init[self.config.subcommand].trainer
        loggers: list[Logger] = _as_list(settings.logger)
        if settings.logger is not False and not any(isinstance(logger, RunLogger) for logger in loggers):
            resume = bool(self.config[self.config.subcommand].get("ckpt_path"))
            settings.logger = [RunLogger(settings.default_root_dir, str(self.subcommand), resume), *loggers]
        settings.callbacks = _as_list(settings.callbacks)
        if not self.recipe:  # which shows its jobs itself
            settings.callbacks += console_callbacks(settings)
        settings.enable_model_summary = False  # Lightning's
        try:
            trainer = super().instantiate_trainer(**kwargs)
            callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
            callbacks.append(ExactResume())  # modules of other packages bring none
            written = any(isinstance(callback, BasePredictionWriter | Verifiers) for callback in callbacks)
            if self.subcommand == "predict" and isinstance(self.model, LanguageModule) and not written:
                callbacks.append(PredictionWriter())  # what was sampled would be lost
            if self.recipe:
                tell_recipe(trainer, self.recipe)
            else:
                callbacks.append(PredictionLine())
            return trainer
        except (MisconfigurationException, ValueError) as error:
            raise UserError(f"trainer: {error}") from error


def _take_own_tokenizer(model: Any, args: Sequence[str]) -> None:
    """Where the command line names another model than the configuration, let its own tokenizer come with it."""
    settings = {} if model is None else model.get("init_args") or {}
    named = isinstance(settings.get("model"), str) and any(re.match(r"--model\.(init_args\.)?model\b", a) for a in args)
    trained = isinstance(settings.get("tokenizer"), Namespace)
    if named and trained and not any(re.match(r"--model\.(init_args\.)?tokenizer\b", a) for a in args):
        settings["tokenizer"] = None
        logger.info("model.tokenizer: that of '%s', in place of one to train", settings["model"])


def run_job(args: list[str], trainer_class: type[Trainer] = Trainer) -> None:
    """Run ``fit``, ``validate``, ``test``, ``predict`` or another method of the Trainer, with its command line.

    Raises:
        UserError: a setting, a file or a name is wrong.
        Interrupted: a signal asked the job to end.
    """
    quieten()
    if redact(args) != args:  # W&B stores the command line of the process with a run's other metadata
        os.environ.setdefault("WANDB_X_DISABLE_META", "true")
    args = prepare_arguments(args)
    if hasattr(trainer_class, "write"):  # a person at a terminal, whose Ctrl-C ends a line and not the session
        NarrativeCLI(args, trainer_class)
        return
    with listening():
        try:
            NarrativeCLI(args, trainer_class)
            if (number := requested()) is not None:
                raise Interrupted(number)  # it came too late to stop anything, but whoever sent it is to know
        except Interrupted:
            if _get_rank():
                # Lightning kills all processes, the one that saves too, when another than the first ends with an error.
                raise SystemExit(0) from None
            raise


def prepare_arguments(args: list[str]) -> list[str]:
    """The command line of a job as the parser takes it, and the classes imported that it may name.

    Raises:
        UserError: a value is missing, or names a pipe or a configuration that there is not.
    """
    for argument in args:
        refuse_pipe(argument.rpartition("=")[2])  # here, since libraries that read what a setting names would wait
    see_nameable_classes()
    check_values(args)
    return with_callback_settings(resolve_configs(with_whole_lists(with_current_names(args))))


def see_nameable_classes() -> None:
    """Import what a configuration can name without its module: a class is found among the subclasses that there are."""
    see_working_directory()  # a configuration may name classes from there
    for subpackage in NAMEABLE:
        package = import_module(f"lit_narrative.{subpackage}")
        for module in iter_modules(package.__path__):
            import_module(f"{package.__name__}.{module.name}")


def build_task(settings: Any) -> TaskDataModule:
    """The task that the ``data`` of a configuration names.

    Raises:
        UserError: it names none, or a setting is wrong.
    """
    see_nameable_classes()
    parser = JobParser()
    parser.add_lightning_class_args(TaskDataModule, "data", subclass_mode=True)
    task: TaskDataModule = parser.instantiate_classes(parser.parse_object({"data": settings})).data
    return task


def with_current_names(args: list[str]) -> list[str]:
    """Replace the names of renamed classes that stand as values on a command line (``--model.class_path=Old``)."""
    split = (argument.rpartition("=") for argument in args)
    return [f"{flag}{equals}{current_path(value)}" for flag, equals, value in split]


def with_whole_lists(args: list[str]) -> list[str]:
    """Let a list of settings on a command line replace the one of a configuration.

    The parser would merge lists of one length entry by entry: ``--model.attributes=[{head: x}]`` over an entry with a
    ``bag`` gave an entry with both.
    """
    whole: list[str] = []
    for argument, following in zip(args, [*args[1:], ""], strict=True):
        flag, equals, value = argument.partition("=")
        if flag.startswith("--") and not flag.endswith("+") and LIST.match(value if equals else following):
            whole.append(f"{flag}=[]")
        whole.append(argument)
    return whole


def with_current_paths(value: Any) -> Any:
    """Settings as YAML gives them, every ``class_path`` of a class that moved replaced by today's."""
    if isinstance(value, dict):
        paths = {"class_path": current_path(value["class_path"])} if isinstance(value.get("class_path"), str) else {}
        return {key: with_current_paths(part) for key, part in value.items()} | paths
    return [with_current_paths(part) for part in value] if isinstance(value, list) else value


_load_yaml = get_loader("yaml")
set_loader("yaml", lambda text: with_current_paths(_load_yaml(text)), exceptions=(YAMLError,))


def quieten() -> None:
    """Hide messages that nobody can act on: advertisements, and warnings of what this package does on purpose."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_can_be_acted_on)
    # They log each request with its whole URL, headers too at a lower level.
    for name in ("httpx", "httpcore", "httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # the data sets are small or sampled in this process
        ".*It is recommended to use .* sync_dist=True.*",  # figures are reduced over processes before they are logged
        ".*isinstance.treespec, LeafSpec.*",  # Lightning calls what newer PyTorch renames
        ".*Checkpoint directory .* exists and is not empty.*",  # a run folder is used again when a run resumes
        "The dirpath has changed from .*",  # a test of a checkpoint from the folder of its fit keeps none of its own
        ".*configured with multiple `ModelCheckpoint`.*",  # one of them is ours, which has no best checkpoint
    ):
        warnings.filterwarnings("ignore", message)
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"lightning\.pytorch\.cli")


def _can_be_acted_on(record: logging.LogRecord) -> bool:
    """Whether a log record is neither one of Lightning's advertisements ("Tip:") nor about chips that are not there."""
    message = record.getMessage()
    return "Tip:" not in message and not message.startswith(("GPU available: False", "TPU available: False"))


def _as_list(named: Any) -> list[Any]:
    """The loggers or callbacks that a setting names: one, several, or none (true, false, null)."""
    if isinstance(named, bool) or named is None:
        return []
    return list(named) if isinstance(named, list | tuple) else [named]


def _needs_folder(logger: type[Logger]) -> bool:
    folder = signature(logger).parameters.get("save_dir")
    return folder is not None and folder.default is Parameter.empty


class JobParser(LightningArgumentParser):
    """Lightning's parser with errors that name the nearest setting instead of printing the usage."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # An abbreviation would work on the command line only, and change its meaning when a setting is added.
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def add_class_arguments(self, class_type: type, *args: Any, **kwargs: Any) -> list[str]:
        """Add the arguments of a class; the folder of a logger is the run folder, unless another one is given."""
        if not args and issubclass(class_type, Logger) and _needs_folder(class_type):
            kwargs["skip"] = {*(kwargs.get("skip") or ()), "save_dir"}
            self.add_argument("--save_dir", type=str | None, default=None, help="folder; default: the run folder")
        return super().add_class_arguments(class_type, *args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what is wrong as a ``UserError``.

        Raises:
            UserError: always, but in the parsers that jsonargparse makes to try a value out.
        """
        if not self.exit_on_error:
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        raise UserError(explain(message, option_names(parser))) from ex
