"""``mmengine.hooks``."""

from collections.abc import Sequence

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

DATA_BATCH = dict | tuple | list | None
SUFFIX_TYPE = Sequence[str] | str
