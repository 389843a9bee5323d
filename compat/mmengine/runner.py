"""``mmengine.runner``."""

from collections.abc import Mapping
from typing import Any

from trainwright.compat.mmengine._strategy import FlexibleRunner
from trainwright.compat.mmengine.checkpoints import (
    _load_checkpoint,
    _load_checkpoint_to_model,
    _load_checkpoint_with_prefix,
    save_checkpoint,
)
from trainwright.compat.mmengine.log_processor import LogProcessor
from trainwright.engine import (
    BaseLoop,
    CheckpointLoader,
    Config,
    ConfigDict,
    EpochBasedTrainLoop,
    IterBasedTrainLoop,
    OptimWrapper,
    OptimWrapperDict,
    ParamScheduler,
    Priority,
    Runner,
    TestLoop,
    ValLoop,
    autocast,
    find_latest_checkpoint,
    get_priority,
    get_state_dict,
    load_checkpoint,
    load_state_dict,
    set_random_seed,
    weights_to_cpu,
)
from trainwright.engine.run.custom_loops import InfiniteDataloaderIterator as _InfiniteDataloaderIterator
from trainwright.engine.run.custom_loops import calc_dynamic_intervals
from trainwright.engine.run.eval_losses import parse_losses as _parse_losses
from trainwright.engine.run.eval_losses import update_losses as _update_losses
from trainwright.engine.run.model_surgery import turn_on_activation_checkpointing

ConfigType = dict[str, Any] | Config | ConfigDict
ParamSchedulerType = list[ParamScheduler] | dict[str, list[ParamScheduler]]
OptimWrapperType = OptimWrapper | OptimWrapperDict


def _get_batch_size(dataloader: Any) -> Any:
    if isinstance(dataloader, Mapping):
        return dataloader.get("batch_size") or dataloader["batch_sampler"]["batch_size"]
    return dataloader.batch_sampler.batch_size
