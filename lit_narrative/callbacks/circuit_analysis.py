"""Circuit analysis as a part of a run: which parts of the model carry its answers, at test or while it trains."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import Progress as Bars
from transformers import PreTrainedTokenizerBase

from lit_narrative.callbacks.base import dry_run, first_process_works, isolated
from lit_narrative.circuits.bridge import build_bridge, check_layers, shape
from lit_narrative.circuits.hooks import Progress
from lit_narrative.circuits.material import Material, collect
from lit_narrative.circuits.report.comparison import write_comparison
from lit_narrative.circuits.report.page import write_circuits_page
from lit_narrative.circuits.suite import PAIRED, RUNS, Analysis, CircuitSettings, Figures, Layers, check_settings
from lit_narrative.errors import UserError, check_least, did_you_mean
from lit_narrative.files import atomic_folder, write_json
from lit_narrative.lm.checkpoint import read_language_model
from lit_narrative.modules.language import LanguageModule
from lit_narrative.report.run_folder import versions
from lit_narrative.seeds import run_seed

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


logger = logging.getLogger(__name__)


class CircuitAnalysis(Callback):
    """Opens a copy of the model up and finds what carries its answers; the run itself goes on as if nothing was.

    Works with any module that owns a causal LM that TransformerLens can bridge, and with any task that has examples;
    ``patching``, ``attribution``, ``acdc`` and ``lens`` need one that offers contrast pairs. One process analyses, the
    others wait (by torch's default half an hour at most). Logs a few figures as ``circuits/*`` and writes a folder
    (replaced as a whole):

    - ``probes.*``, ``ablation.*``, ``jaccard.json``, ``sae/<hook>/``: over all splits,
    - ``<split>/attention.csv``: of its rows,
    - ``<split>/patching.*``, ``circuit.*``, ``nodes.*``, ``faithfulness.*``, ``acdc.json``, ``criteria.json``,
      ``lens.csv``, ``direct.*``: of its pairs,
    - ``circuits.html`` and ``figures/``: the page and its figures,
    - ``reference/``, ``comparison.html``, ``comparison.json``: the same of the reference, and what is different since,
    - ``manifest.json``: settings, versions, figures, files, and errors.

    Args:
        analyses: any of probes, patching, ablation, attribution, acdc, lens, attention and sae.
        on: when: after the tests, at the end of training, or after every so many epochs of it.
        every_n_epochs: how many, for ``every_n_epochs``; those go to ``<folder>/epoch_<n>``.
        examples: rows of each split at most, and pairs (of those the settings take fewer).
        layers: some of them, for analyses whose settings do not name their own, or all.
        splits: ``test``, ``val``, ``train``, or sets of the task by name. The first is home: probes are fitted on it,
            means are taken from it, and the SAE is trained on it.
        settings: of each analysis.
        folder: where to write; default: ``circuits`` in the run folder.
        reference: a ``.ckpt`` of this package to compare with, such as the start of reinforcement learning.
        pages: draw the figures and the pages, which takes seconds (``lit-narrative compare`` does so for two folders at
            any time); a dry run draws none.
        strict: end with the error of an analysis that cannot be done, after the others; if not, it is logged and named
            in the manifest.

    Raises:
        UserError: there is no such analysis, or a number is out of range.
    """

    def __init__(
        self,
        analyses: Sequence[str] = tuple(RUNS),
        on: Literal["test", "fit_end", "every_n_epochs"] = "test",
        every_n_epochs: int = 1,
        examples: int = 128,
        layers: Layers = "all",
        splits: Sequence[str] = ("test",),
        settings: CircuitSettings = CircuitSettings(),  # noqa: B008 (the command line shows the default's fields)
        folder: str | None = None,
        reference: str | None = None,
        pages: bool = True,
        strict: bool = True,
    ) -> None:
        for name in analyses:
            if name not in RUNS:
                raise UserError(
                    f"callback CircuitAnalysis: there is no analysis '{name}'{did_you_mean(name, RUNS)}; "
                    f"known: {', '.join(RUNS)}"
                )
        for name, given in (("analyses", analyses), ("splits", splits)):
            check_least(f"callback CircuitAnalysis: number of {name}", len(given), 1)
        check_least("callback CircuitAnalysis: every_n_epochs", every_n_epochs, 1)
        check_least("callback CircuitAnalysis: examples", examples, 1)
        self.analyses, self.on, self.every_n_epochs = tuple(dict.fromkeys(analyses)), on, every_n_epochs
        self.examples, self.layers, self.splits = examples, layers, tuple(splits)
        self.settings, self.folder, self.reference = settings, folder, reference
        self.pages, self.strict = pages, strict

    # --- when -------------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module without a language model, and one that is spread over processes."""
        if not isinstance(pl_module, LanguageModule):
            raise UserError(f"callback CircuitAnalysis needs a language model; {type(pl_module).__name__} has none")
        if pl_module.device_mesh is not None:
            raise UserError(
                "callback CircuitAnalysis needs the whole model on one device, but the strategy shares it out; analyse "
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
            figures = self._analyse(trainer, pl_module, f"epoch_{trainer.current_epoch:03d}")
            pl_module.log_dict(figures, rank_zero_only=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Analyse what training has made."""
        if self.on == "fit_end":
            figures = self._analyse(trainer, pl_module)
            for log in trainer.loggers:  # the module itself can log no more
                log.log_metrics(figures, step=trainer.global_step)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Analyse what was tested."""
        if self.on == "test":
            pl_module.log_dict(self._analyse(trainer, pl_module), rank_zero_only=True)

    # --- what -------------------------------------------------------------------------------------------------------

    def _check(self, trainer: Trainer, module: LightningModule) -> None:
        """Try what can be wrong with the settings: the sets, pairs and places, the model, layers, hooks, the reference.

        Raises:
            UserError: one of them is.
        """
        with first_process_works(trainer) as first, isolated():
            if first:
                material = self._collect(trainer, module, self.examples)  # a place may be in few of the rows
                bridge = build_bridge(module.lm)  # type: ignore[arg-type]
                check_layers(bridge, self.layers)
                check_settings(bridge, material, self.settings.within(self.layers), self.analyses)
                if self.reference is not None:
                    reference_bridge(self.reference, material.tokenizer, bridge)

    def _collect(self, trainer: Trainer, module: LightningModule, examples: int) -> Material:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        paired = any(name in PAIRED for name in self.analyses)
        return collect(data, module.tokenizer, self.splits, examples, paired)  # type: ignore[arg-type]

    def _analyse(self, trainer: Trainer, module: LightningModule, name: str = "") -> Figures:
        """Analyse on one process; the figures to log there, none elsewhere."""
        figures: Figures = {}
        with first_process_works(trainer) as first:
            if first:
                with isolated():
                    figures, errors = self._write(trainer, module, name)
                if errors and self.strict:
                    raise next(iter(errors.values()))
        return {f"circuits/{key}": value for key, value in figures.items()}

    def _write(self, trainer: Trainer, module: LightningModule, name: str) -> tuple[Figures, dict[str, UserError]]:
        """Run every analysis on the model, then on the reference; say in the manifest how it went; draw the pages."""
        dry = dry_run(trainer)
        material = self._collect(trainer, module, 4 if dry else self.examples)
        settings = self.settings.within(self.layers)
        settings = settings.tiny() if dry else settings
        bridge, shown = build_bridge(module.lm), _shown(trainer)  # type: ignore[arg-type]
        said = self._manifest(trainer, material, settings, bridge)
        place = (Path(self.folder) if self.folder else Path(trainer.default_root_dir, "circuits")) / name
        with TemporaryDirectory() if dry else atomic_folder(place) as filled:
            folder = Path(filled)
            figures, errors = self._run_all(bridge, material, settings, folder, shown)
            if self.reference is not None:
                other = reference_bridge(self.reference, material.tokenizer, bridge)
                before, more = self._run_all(other, material, settings, folder / "reference", shown)
                _describe(folder / "reference", {**said, "checkpoint": self.reference, "step": None}, before, more)
                errors |= {f"reference/{analysis}": error for analysis, error in more.items()}
            _describe(folder, said, figures, errors)
        if self.pages and not dry:  # the tables are safe by now
            errors |= _draw(place, compared=self.reference is not None)
            _describe(place, said, figures, errors)
        return figures, errors

    def _run_all(
        self,
        bridge: "TransformerBridge",
        material: Material,
        settings: CircuitSettings,
        folder: Path,
        shown: bool,
    ) -> tuple[Figures, dict[str, UserError]]:
        figures: Figures = {}
        errors: dict[str, UserError] = {}
        with Bars(console=Console(stderr=True), disable=not shown, transient=True) as bars:
            for name in self.analyses:
                try:
                    found = RUNS[name](Analysis(bridge, material, settings, folder, _bar(bars, name)))
                except UserError as error:
                    errors[name] = UserError(f"callback CircuitAnalysis: {name}: {error}")
                    logger.warning("%s", errors[name])
                else:
                    figures |= {f"{name}/{key}": value for key, value in found.items()}
        return figures, errors

    def _manifest(
        self, trainer: Trainer, material: Material, settings: CircuitSettings, bridge: "TransformerBridge"
    ) -> dict[str, Any]:
        return {
            "analyses": list(self.analyses),
            "seed": run_seed(),
            "step": trainer.global_step,
            "checkpoint": None if trainer.ckpt_path is None else str(trainer.ckpt_path),
            "reference": self.reference,
            "model": shape(bridge)._asdict(),
            "home": material.home,
            "splits": material.counts(),
            "settings": asdict(settings),
            "versions": versions(),
        }


def _describe(folder: Path, said: Mapping[str, Any], figures: Figures, errors: Mapping[str, UserError]) -> None:
    """Write the manifest, with the files that there are by now."""
    files = sorted({path.relative_to(folder).as_posix() for path in folder.rglob("*.*")} | {"manifest.json"})
    reasons = {name: str(error) for name, error in errors.items()}
    finite = {name: value for name, value in figures.items() if isfinite(value)}
    write_json(folder / "manifest.json", {**said, "figures": finite, "errors": reasons, "files": files})


def _draw(folder: Path, compared: bool) -> dict[str, UserError]:
    """Draw the pages of what a folder holds; the reason why the two models cannot be compared, if so."""
    write_circuits_page(folder)
    if not compared:
        return {}
    write_circuits_page(folder / "reference")
    try:
        write_comparison(folder / "reference", folder, folder / "comparison.html", ("reference", "model"))
    except UserError as error:
        return {"comparison": error}
    return {}


def _shown(trainer: Trainer) -> bool:
    """Whether the user wants bars."""
    return trainer.progress_bar_callback is not None


def _bar(bars: Bars, name: str) -> Progress:
    """A bar of an analysis; it begins anew with each of its parts."""
    task = bars.add_task(name, total=None)

    def show(done: int, total: int) -> None:
        bars.update(task, completed=done, total=total)

    return show


def reference_bridge(path: str, tokenizer: PreTrainedTokenizerBase, bridge: "TransformerBridge") -> "TransformerBridge":
    """Open up the model of a checkpoint, where ``bridge`` is.

    Raises:
        UserError: it cannot be read, or is of another shape or vocabulary.
    """
    lm, own = read_language_model(path)
    if own.get_vocab() != tokenizer.get_vocab():
        raise UserError(f"callback CircuitAnalysis: the tokenizer of reference '{path}' is not that of the model")
    other = build_bridge(lm.to(bridge.cfg.device))  # type: ignore[arg-type]
    if shape(other) != shape(bridge):
        raise UserError(
            f"callback CircuitAnalysis: reference '{path}' has {tuple(shape(other))} layers, heads, key-value heads, "
            f"width and vocabulary, the model {tuple(shape(bridge))}; parts can be compared only one by one"
        )
    return other
