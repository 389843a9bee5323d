"""``mmengine.hooks``."""

from collections.abc import Sequence
from typing import Any

from trainwright.compat.mmengine.unsupported import NPUProfilerHook
from trainwright.engine import Hook
from trainwright.hooks import (
    CheckpointHook,
    DistSamplerSeedHook,
    EarlyStoppingHook,
    EMAHook,
    EmptyCacheHook,
    IterTimerHook,
    LoggerHook,
    NaiveVisualizationHook,
    ParamSchedulerHook,
    PrepareTTAHook,
    ProfilerHook,
    RuntimeInfoHook,
    SyncBuffersHook,
    build_runner_with_tta,
)

DATA_BATCH = dict[str, Any] | tuple[Any, ...] | list[Any] | None
SUFFIX_TYPE = Sequence[str] | str
