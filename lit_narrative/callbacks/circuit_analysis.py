"""Circuit analysis as a part of a run: which parts of the model carry its answers, at test or while it trains."""

import logging
import random
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from rich.console import Console
from rich.progress import Progress as Bars
from transformers import PreTrainedTokenizerBase

from lit_narrative.callbacks.base import dry_run, first_process_works, isolated, show_images, shows_images
from lit_narrative.circuits.analyses import acdc
from lit_narrative.circuits.analyses.acdc import PruningSettings
from lit_narrative.circuits.analysis import Analysis, AnalysisJob, Layers, Metrics
from lit_narrative.circuits.bridge import Bounds, block_weights, bounds_of, build_bridge, check_layers, shape
from lit_narrative.circuits.data import AnalysisData, collect
from lit_narrative.circuits.hooks import Progress
from lit_narrative.circuits.report.comparison import write_comparison
from lit_narrative.circuits.report.page import write_circuits_page
from lit_narrative.circuits.store import Done, Store, key_of, model_digest
from lit_narrative.circuits.suite import (
    ANALYSES,
    CircuitSettings,
    SettingsGroups,
    duration,
    estimate,
    join_settings,
    load_extra,
)
from lit_narrative.errors import UserError, check_choice, check_least
from lit_narrative.files import atomic_folder, write_json
from lit_narrative.lm.checkpoint import read_language_model
from lit_narrative.lm.load import base_lm
from lit_narrative.modules.language import LanguageModule
from lit_narrative.report.run_folder import versions
from lit_narrative.seeds import run_seed

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


logger = logging.getLogger(__name__)
EVERY = 30.0
"""Seconds between two lines of progress where there is no bar."""


class CircuitAnalysis(Callback):
    """Analyses of a copy of the model: which parts carry its answers. The run itself is not changed by them.

    Works with any module that owns a causal LM that TransformerLens can bridge, and with any task that has examples.
    Some analyses need a task that offers contrast pairs. One process analyses, the others wait (by torch's default half
    an hour at most). Logs a few metrics as ``circuits/*`` and writes a folder (replaced as a whole): tables and arrays
    of each analysis, ``circuits.html`` and ``figures/``, and ``manifest.json`` (settings, versions, metrics, files and
    errors); with a ``reference``, the same of that model in ``reference/``, and ``comparison.html``. The list of files
    is in docs/circuits.md. W&B and TensorBoard get the figures as images.

    Unless the settings say otherwise, small models are analysed in all layers on 128 rows, larger ones in a few layers
    on fewer rows, pairs and edges (`circuits.bridge.BOUNDS`), which is said. An estimate of the work stands before it,
    and lines of progress where there is no bar. Each analysis is on disk when
    it is done, in ``<folder>.unfinished`` until all are. One that is there, or in the folder of an earlier run, is not
    done again if its settings, the model, the rows, the seed and the packages' versions are the same.

    Args:
        analyses: names of analyses (`suite.ANALYSES`: the modules of ``circuits/analyses``); default: all.
        on: when: after the tests, at the end of training, or after every so many epochs of it.
        every_n_epochs: how many, for ``every_n_epochs``; those go to ``<folder>/epoch_<n>``.
        examples: rows of each split at most, and pairs (of those the settings take fewer); None: by the model's size.
        layers: some of them, for analyses whose settings do not name their own, or all; None: by the model's size.
        splits: ``test``, ``val``, ``train``, or sets of the task by name. The first is the reference split: probes are
            fitted on it, means are taken from it, and the SAE is trained on it.
        settings: of each analysis.
        folder: where to write; default: ``circuits`` in the run folder.
        reference: a ``.ckpt`` of this package to compare with, such as the start of reinforcement learning.
        pages: draw the figures and the pages, which takes seconds (``lit-narrative compare`` does so for two folders at
            any time); a dry run draws none.
        strict: end with the error of an analysis that cannot be done, after the others; if not, it is logged and named
            in the manifest.
        extra: analyses of other packages, done after the others: the path of a module that defines ``ANALYSIS``, such
            as ``my.package.norms``, and its settings by field, ``{}`` for the defaults.

    Raises:
        UserError: there is no such analysis or setting, or a number is out of range.
    """

    def __init__(
        self,
        analyses: Sequence[str] = tuple(ANALYSES),
        on: Literal["test", "fit_end", "every_n_epochs"] = "test",
        every_n_epochs: int = 1,
        examples: int | None = None,
        layers: Layers | None = None,
        splits: Sequence[str] = ("test",),
        settings: CircuitSettings = CircuitSettings(),  # noqa: B008 (the command line shows the default's fields)
        folder: str | None = None,
        reference: str | None = None,
        pages: bool = True,
        strict: bool = True,
        extra: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        for name in analyses:
            check_choice("callback CircuitAnalysis: analyses", name, ANALYSES)
        extra = extra or {}
        self.extra = load_extra(extra)
        self.analyses = [*(ANALYSES[name] for name in dict.fromkeys(analyses)), *self.extra.values()]
        for name, count in (("analyses", len(self.analyses)), ("splits", len(splits))):
            check_least(f"callback CircuitAnalysis: number of {name}", count, 1)
        check_least("callback CircuitAnalysis: every_n_epochs", every_n_epochs, 1)
        check_least("callback CircuitAnalysis: examples", examples, 1)
        self.on, self.every_n_epochs = on, every_n_epochs
        self.examples, self.layers, self.splits = examples, layers, tuple(splits)
        self.settings: SettingsGroups = join_settings(settings, self.extra, extra)
        self.folder, self.reference = folder, reference
        self.pages, self.strict = pages, strict

    # --- when -------------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module without a language model, one with a chat template, and one that is spread over processes."""
        if not isinstance(pl_module, LanguageModule):
            raise UserError(f"callback CircuitAnalysis needs a language model; {type(pl_module).__name__} has none")
        if pl_module.chat:  # its positions are characters of the task's text, and a template writes others around them
            raise UserError(
                "callback CircuitAnalysis reads prompts as they stand, and model.chat=true asks for a chat template "
                "around them; set model.chat=false, with prompts that are texts"
            )
        if pl_module.device_mesh is not None:
            raise UserError(
                "callback CircuitAnalysis needs the whole model on one device, but the strategy shards it; analyse "
                "its checkpoint with `lit-narrative test` and trainer.strategy=auto"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fail before training, not after it."""
        if self.on != "test":
            self._check(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fail before the tests, not after them."""
        if self.on == "test":
            self._check(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Analyse every so many epochs."""
        done = trainer.current_epoch + 1
        if self.on == "every_n_epochs" and done % self.every_n_epochs == 0:
            metrics = self._analyse(trainer, pl_module, f"epoch_{trainer.current_epoch:03d}")
            pl_module.log_dict(metrics, rank_zero_only=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Analyse the trained model."""
        if self.on == "fit_end":
            metrics = self._analyse(trainer, pl_module)
            for log in trainer.loggers:  # Lightning forbids self.log in this hook
                log.log_metrics(metrics, step=trainer.global_step)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Analyse the tested model."""
        if self.on == "test":
            pl_module.log_dict(self._analyse(trainer, pl_module), rank_zero_only=True)

    # --- what -------------------------------------------------------------------------------------------------------

    def _check(self, trainer: Trainer, module: LightningModule) -> None:
        """Check the settings: sets, pairs and positions, the model, layers, hooks, the reference.

        Raises:
            UserError: one of them is wrong.
        """
        with first_process_works(trainer) as first, isolated():
            if first:
                bounds = self._bounds(module)
                data = self._collect(trainer, module, bounds)  # all: a position may be in few of the rows
                bridge = build_bridge(module.lm)  # type: ignore[arg-type]
                layers = self._layers(bridge, bounds)
                check_layers(bridge, layers)
                job = AnalysisJob(bridge, data, self.settings.within(layers).groups())
                for analysis in self.analyses:
                    analysis.check(job)
                if self.reference is not None:
                    reference_bridge(self.reference, data.tokenizer, bridge, _trusted(module))

    def _bounds(self, module: LightningModule) -> Bounds:
        """What a model of this size is analysed by, with the number of rows and pairs that was asked for."""
        config = base_lm(module.lm).config.get_text_config()  # type: ignore[arg-type]
        bounds = bounds_of(config.num_hidden_layers, config.hidden_size)
        return bounds if self.examples is None else bounds._replace(rows=self.examples, pairs=self.examples)

    def _layers(self, bridge: "TransformerBridge", bounds: Bounds) -> Layers:
        return bounds.spread(shape(bridge).layers) if self.layers is None else self.layers

    def _collect(self, trainer: Trainer, module: LightningModule, bounds: Bounds) -> AnalysisData:
        source: Any = trainer.datamodule  # type: ignore[attr-defined]
        pairs = bounds.pairs if any(analysis.paired for analysis in self.analyses) else 0
        return collect(source, module.tokenizer, self.splits, bounds.rows, pairs)  # type: ignore[arg-type]

    def _analyse(self, trainer: Trainer, module: LightningModule, name: str = "") -> Metrics:
        """Analyse on one process; the metrics to log there, none elsewhere."""
        metrics: Metrics = {}
        with first_process_works(trainer) as first:
            if first:
                with isolated():
                    metrics, errors = self._write(trainer, module, name)
                # Raised only now: what the other analyses found is on disk.
                if errors and self.strict:
                    raise next(iter(errors.values()))
        return {f"circuits/{key}": value for key, value in metrics.items()}

    def _write(self, trainer: Trainer, module: LightningModule, name: str) -> tuple[Metrics, dict[str, UserError]]:
        """Run every analysis on the model, then on the reference; write the manifest; draw the pages."""
        dry = dry_run(trainer)
        # Read again rather than kept from the check, where they would lie in memory all through training.
        bounds = self._bounds(module)
        data = self._collect(trainer, module, bounds._replace(rows=4, pairs=4) if dry else bounds)
        bridge = build_bridge(module.lm)  # type: ignore[arg-type]
        layers = self._layers(bridge, bounds)
        settings = self.settings.within(layers)
        settings = settings.tiny() if dry else settings
        shown = trainer.progress_bar_callback is not None  # bars only where the user has Lightning's
        job = AnalysisJob(bridge, data, settings.groups())
        self._say_bounds(job, bounds, layers)
        manifest = self._manifest(trainer, job)
        target = (Path(self.folder) if self.folder else Path(trainer.default_root_dir, "circuits")) / name
        # Whole analyses wait here until all are done: what was killed resumes with the one that it was at.
        waiting = target.with_name(f"{target.name}.unfinished")
        with TemporaryDirectory() if dry else nullcontext(waiting) as scratch:
            store = Store(Path(scratch, "model"), target)
            done, errors = self._run_all(job, store, shown)
            parts = {"": (store, manifest, done, errors)}
            if self.reference is not None:
                bridge = reference_bridge(self.reference, data.tokenizer, job.bridge, _trusted(module))
                store = Store(Path(scratch, "reference"), target / "reference")
                before, more = self._run_all(AnalysisJob(bridge, data, settings.groups()), store, shown)
                of_reference = {**manifest, "checkpoint": self.reference, "step": None}
                parts = {"reference": (store, of_reference, before, more), **parts}
                errors |= {f"reference/{analysis}": error for analysis, error in more.items()}
            if not dry:
                with atomic_folder(target) as folder:
                    for part, (store, about, results, failed) in parts.items():
                        store.copy_to(folder / part, results)
                        _write_manifest(folder / part, about, results, failed)
                shutil.rmtree(waiting, ignore_errors=True)  # what is left there is found and removed the next time
        if self.pages and not dry:  # after the folder is in place: a figure that fails costs no table
            errors |= self._draw(target)
            if shows_images(trainer):
                figures = sorted(target.glob("figures/*.png"))
                show_images(trainer, {f"circuits/{path.stem}": path.read_bytes() for path in figures})
            _write_manifest(target, manifest, done, errors)
        return _metrics(done), errors

    def _say_bounds(self, job: AnalysisJob, bounds: Bounds, layers: Layers) -> None:
        """Say what of a large model is left out because no setting asks for it, and which settings would."""
        sizes, said = shape(job.bridge), {}
        if self.layers is None:
            said["layers"] = f"layers {', '.join(map(str, layers))} of {sizes.layers}"
        if self.examples is None:
            said["examples"] = f"{bounds.rows} rows and {bounds.pairs} pairs a split"
        if job.settings_of(PruningSettings).max_edges is None and acdc.ANALYSIS in self.analyses:
            said["settings.acdc.max_edges"] = f"{bounds.edges} edges by ACDC"
        if said and bounds.layers is not None:
            weights = block_weights(sizes.layers, sizes.width) / 1e6
            rank_zero_info(
                f"CircuitAnalysis: the model has {weights:.0f} M weights in its blocks, so that by default it is "
                f"analysed by {'; '.join(said.values())}; for more set {', '.join(said)}"
            )

    def _run_all(self, job: AnalysisJob, store: Store, shown: bool) -> tuple[dict[str, Done], dict[str, UserError]]:
        """Do the analyses that are not done yet."""
        model = model_digest(job.bridge)
        sources = {analysis.name: Path(str(sys.modules[path].__file__)) for path, analysis in self.extra.items()}
        keys = {analysis.name: key_of(analysis, job, model, sources.get(analysis.name)) for analysis in self.analyses}
        found = {name: done for name, key in keys.items() if (done := store.find(name, key))}
        if found:
            rank_zero_info(f"CircuitAnalysis: done before, of the same model, rows and settings: {', '.join(found)}")
        left = [analysis for analysis in self.analyses if analysis.name not in found]
        if left:
            rank_zero_info(f"CircuitAnalysis: {', '.join(analysis.name for analysis in left)}: {estimate(left, job)}")
        errors: dict[str, UserError] = {}
        with Bars(console=Console(stderr=True), disable=not shown, transient=True) as bars:
            for analysis in left:
                name, begun = analysis.name, time.monotonic()
                _seed(run_seed())  # so that an analysis does not depend on those that were done before it
                try:
                    work = partial(_run, analysis, job, _report(bars, name, shown))
                    found[name] = store.add(name, keys[name], work)
                except UserError as error:
                    errors[name] = UserError(f"callback CircuitAnalysis: {name}: {error}")
                    logger.warning("%s", errors[name])
                else:
                    rank_zero_info(f"CircuitAnalysis: {name}: done in {duration(time.monotonic() - begun)}")
        return {analysis.name: found[analysis.name] for analysis in self.analyses if analysis.name in found}, errors

    def _manifest(self, trainer: Trainer, job: AnalysisJob) -> dict[str, Any]:
        """What was analysed. The keys stay as older folders have them, whatever the code calls their values."""
        return {
            "analyses": [analysis.name for analysis in self.analyses],
            "extra": {analysis.name: path for path, analysis in self.extra.items()},
            "seed": run_seed(),
            "step": trainer.global_step,
            "checkpoint": None if trainer.ckpt_path is None else str(trainer.ckpt_path),
            "reference": self.reference,
            "model": shape(job.bridge)._asdict(),
            "home": job.data.reference_split,
            "splits": job.data.counts(),
            "settings": {key: asdict(settings) for key, settings in job.settings.items()},
            "versions": versions(),
        }

    def _draw(self, folder: Path) -> dict[str, UserError]:
        """Draw the pages of a folder; the reason why the two models cannot be compared, if so."""
        extra = tuple(self.extra.values())
        write_circuits_page(folder, extra)
        if self.reference is None:
            return {}
        write_circuits_page(folder / "reference", extra)
        try:
            write_comparison(folder / "reference", folder, folder / "comparison.html", ("reference", "model"), extra)
        except UserError as error:
            return {"comparison": error}
        return {}


def _run(analysis: Analysis, job: AnalysisJob, report: Progress, folder: Path) -> Metrics:
    return analysis.run(job, folder, report)


def _metrics(done: Mapping[str, Done]) -> Metrics:
    return {f"{name}/{key}": value for name, record in done.items() for key, value in record.metrics.items()}


def _write_manifest(
    folder: Path, manifest: Mapping[str, Any], done: Mapping[str, Done], errors: Mapping[str, UserError]
) -> None:
    """Write manifest.json, with the files that there are by now."""
    files = sorted({path.relative_to(folder).as_posix() for path in folder.rglob("*.*")} | {"manifest.json"})
    reasons = {name: str(error) for name, error in errors.items()}
    finite = {name: value for name, value in _metrics(done).items() if isfinite(value)}  # JSON has no NaN
    records = {name: record.as_json() for name, record in done.items()}
    content = {**manifest, "figures": finite, "errors": reasons, "files": files, "done": records}
    write_json(folder / "manifest.json", content)


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _report(bars: Bars, name: str, shown: bool) -> Progress:
    """The progress of an analysis, which starts again with each of its parts: a bar, or a line now and then."""
    task, last = bars.add_task(name, total=None), time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        bars.update(task, completed=done, total=total)
        if not shown and time.monotonic() - last >= EVERY:
            last = time.monotonic()
            rank_zero_info(f"CircuitAnalysis: {name}: {done} of {total}")

    return show


def _trusted(module: LightningModule) -> bool:
    """Whether the code of model folders may run: the model's own setting says so for all models of the run."""
    return bool(module.source.trust_remote_code)  # type: ignore[union-attr]


def reference_bridge(
    path: str, tokenizer: PreTrainedTokenizerBase, bridge: "TransformerBridge", trust_remote_code: bool = False
) -> "TransformerBridge":
    """Bridge the model of a checkpoint, on the device of ``bridge``.

    Raises:
        UserError: it cannot be read, or is of another shape or vocabulary.
    """
    lm, other_tokenizer = read_language_model(path, trust_remote_code=trust_remote_code)
    if other_tokenizer.get_vocab() != tokenizer.get_vocab():
        raise UserError(f"callback CircuitAnalysis: the tokenizer of reference '{path}' is not that of the model")
    other = build_bridge(lm.to(bridge.cfg.device))  # type: ignore[arg-type]
    if shape(other) != shape(bridge):
        raise UserError(
            f"callback CircuitAnalysis: reference '{path}' has {tuple(shape(other))} layers, heads, key-value heads, "
            f"width and vocabulary, the model {tuple(shape(bridge))}; parts can be compared only one by one"
        )
    return other
