"""Private functions of other libraries that the package leans on: a release that moves one fails here, by its name.

Each is called in one function of ours, named in the row.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn

from lit_narrative.cli.messages import option_names
from lit_narrative.cli.run_folder import RunLogger
from lit_narrative.modules.base import NarrativeModule
from lit_narrative.progress import batches_begun, logged_steps
from lit_narrative.sae.autoencoder import build_sae

PRIVATE = [
    # (our function that calls it, module, attribute)
    (
        "cli.job_callbacks.EpochBar",
        "lightning.pytorch.callbacks.progress.rich_progress",
        "RichProgressBar._get_train_description",
    ),
    ("cli.run_folder.RunLogger", "lightning.fabric.loggers.logger", "rank_zero_experiment"),
    ("cli.lightning.NarrativeCLI", "lightning.pytorch.cli", "LightningCLI._dump_config"),
    ("cli.lightning.NarrativeCLI", "lightning.pytorch.cli", "LightningCLI._parse_ckpt_path"),
    ("cli.lightning.NarrativeCLI", "lightning.pytorch.cli", "LightningCLI._prepare_subcommand_kwargs"),
    ("cli.run_folder.MetricsTable", "lightning.pytorch.loggers.csv_logs", "ExperimentWriter._check_log_dir_exists"),
    (
        "datamodules.base.TaskDataModule._each_once",
        "lightning.pytorch.overrides.distributed",
        "UnrepeatedDistributedSampler",
    ),
    ("lookup.build_stored", "lightning.pytorch.core.saving", "_ALLOWED_INSTANTIATORS"),
    ("progress.batches_begun", "lightning.pytorch.loops.progress", "_ReadyCompletedTracker.ready"),
    ("resume.ExactResume", "lightning.pytorch.loops.fit_loop", "_FitLoop._should_accumulate"),
    ("resume._end_interrupted", "lightning.pytorch.loops.fit_loop", "_FitLoop.on_advance_end"),
    ("resume._end_interrupted", "lightning.pytorch.loops.fit_loop", "_FitLoop.reset_restart_stage"),
    ("resume._end_interrupted", "lightning.pytorch.loops.progress", "_BatchProgress.reset"),
    ("resume._end_interrupted", "lightning.pytorch.loops.training_epoch_loop", "_TrainingEpochLoop._is_training_done"),
    (
        "resume._end_interrupted",
        "lightning.pytorch.loops.training_epoch_loop",
        "_TrainingEpochLoop._num_ready_batches_reached",
    ),
    (
        "resume._end_interrupted",
        "lightning.pytorch.loops.training_epoch_loop",
        "_TrainingEpochLoop._should_check_val_fx",
    ),
    ("resume._end_interrupted", "lightning.pytorch.loops.training_epoch_loop", "_TrainingEpochLoop.on_advance_end"),
    (
        "resume._end_interrupted",
        "lightning.pytorch.loops.training_epoch_loop",
        "_TrainingEpochLoop.update_lr_schedulers",
    ),
    (
        "resume._ended_processes",
        "lightning.pytorch.strategies.launchers.subprocess_script",
        "_SubprocessScriptLauncher",
    ),
    (
        "resume._unlogged_metrics",
        "lightning.pytorch.trainer.connectors.logger_connector.logger_connector",
        "_LoggerConnector.should_update_logs",
    ),
    ("sae.autoencoder.build_sae", "sae_lens.registry", "get_sae_training_class"),
    ("sae.training.training_pass", "sae_lens.saes.sae", "TrainStepInput"),
    ("sae.autoencoder.inference_sae", "sae_lens.saes.sae", "TrainingSAE.process_state_dict_for_saving_inference"),
    ("sae.autoencoder.inference_sae", "sae_lens.saes.sae", "TrainingSAEConfig.get_inference_sae_cfg_dict"),
    ("lm.fast.layers._onednn_enabled", "torch", "_C._get_mkldnn_enabled"),
    ("steering.pplm.one_token.softmax_backward", "torch", "_softmax_backward_data"),
    ("steering.pplm.flat._view_operations", "torch", "ops.aten._unsafe_view.default"),
    ("steering.pplm.flat._kernel", "torch", "ops.aten.view.default._op"),
    ("lm.fast.layers._product", "torch", "ops.mkldnn._linear_pointwise"),
    ("strategies.FSDP2Strategy._assembled", "torch.utils._pytree", "tree_map"),
    (
        "circuits.bridge.build_bridge",
        "transformer_lens.model_bridge.sources._bridge_builder",
        "build_bridge_from_module",
    ),
    ("lm.load.attention_name, lm.load.attention_function", "transformers", "PretrainedConfig._attn_implementation"),
    ("lm.fast.kv_cache.is_stateful", "transformers", "PreTrainedModel._is_stateful"),
    ("lm.load.takes_attention_functions", "transformers", "PreTrainedModel._supports_attention_backend"),
    ("lm.fast.kv_cache, steering.past, steering.pplm.one_token", "transformers.cache_utils", "DynamicLayer"),
    ("lm.fast.pasts", "transformers.cache_utils", "StaticLayer"),
    ("steering.past.check_cache", "transformers.cache_utils", "DynamicSlidingWindowLayer"),
    ("lm.load.blocks", "transformers.modeling_layers", "GradientCheckpointingLayer"),
]


@pytest.mark.parametrize(("user", "module", "attribute"), PRIVATE, ids=[row[2] for row in PRIVATE])
def test_it_is_still_there(user: str, module: str, attribute: str) -> None:
    value = import_module(module)
    for name in attribute.split("."):
        assert hasattr(value, name), f"lit_narrative.{user} needs {module}.{attribute}, which this release lacks"
        value = getattr(value, name)


OF_INSTANCES = [
    # (our function that uses it, an instance, attribute): set in __init__, so that the class does not show it
    ("strategies.FSDP2Strategy.setup_environment", lambda: ModelParallelStrategy(), "_data_parallel_size"),
    ("strategies.FSDP2Strategy.setup", lambda: quiet_trainer().validate_loop, "inference_mode"),
    ("strategies.FSDP2Strategy.setup", lambda: quiet_trainer().predict_loop, "inference_mode"),
    ("steering.pplm.buffered_past.hooked", nn.Module, "_forward_hooks"),
    ("progress.make_loader_later", lambda: quiet_trainer().fit_loop, "_combined_loader"),
    ("steering.pplm.buffered_past.hooked", nn.Module, "_forward_pre_hooks"),
]


def quiet_trainer() -> Trainer:
    return Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)


@pytest.mark.parametrize(("user", "make", "attribute"), OF_INSTANCES)
def test_instances_still_have_it(user: str, make: Callable[[], object], attribute: str) -> None:
    assert hasattr(make(), attribute), f"lit_narrative.{user} needs {attribute}, which this release lacks"


def test_lightnings_loops_count_batches_where_we_read_them() -> None:
    trainer = quiet_trainer()
    assert batches_begun(trainer) == logged_steps(trainer) == 0
    for _ in range(3):
        trainer.fit_loop.epoch_loop.batch_progress.increment_ready()
    assert batches_begun(trainer) == 3


def test_a_parser_lists_what_it_accepts_where_we_read_it() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--size", type=int)
    assert option_names(parser) == ["size"]


def test_lightnings_csv_logger_keeps_its_writer_where_we_put_ours(tmp_path: Path) -> None:
    assert CSVLogger(tmp_path)._experiment is None
    logger = RunLogger(str(tmp_path))
    assert logger.experiment is logger._experiment


def test_a_module_outside_of_a_trainer_has_none() -> None:
    assert NarrativeModule().attached is None


def test_a_batchtopk_autoencoder_keeps_its_threshold_where_ranks_average_it() -> None:
    assert "topk_threshold" in dict(build_sae("batchtopk", 4, 8, {}, seed=0).named_buffers())
