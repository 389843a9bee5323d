"""No hook makes a training step wait for the device."""

from pathlib import Path
from typing import Any

from tiny_runs import Points, make_runner
from torch.utils._python_dispatch import TorchDispatchMode

from trainwright.engine.run.hook import Hook

HOOKS = [
    {"type": "NanGuardHook", "interval": 1000, "action": "rollback"},
    {"type": "EMAHook"},
    {"type": "ThroughputHook", "window": 2},
    {"type": "DeviceMonitorHook", "interval": 2},
    {"type": "LearningRateMonitorHook", "interval": 2},
    {"type": "GradientAccumulationScheduleHook", "schedule": {0: 1, 20: 2}, "by_epoch": False},
    {"type": "TimeLimitHook", "max_time": 1000},
    {"type": "SwitchHook", "target": "model.training", "value": True, "at_iter": 20},
    {
        "type": "SwitchHook",
        "target": "model.training",
        "value": True,
        "name": "by_scalar",
        "when": {"monitor": "train/loss", "interval": 50, "below": -1},
    },
    {"type": "EarlyStoppingHook", "monitor": "train/loss", "interval": 50},
    {"type": "EmptyCacheHook", "after_iter": True},
]


class CountReads(TorchDispatchMode):
    """Count the operations that wait for the value of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.reads += func._schema.name in ("aten::_local_scalar_dense", "aten::equal", "aten::nonzero")
        return func(*args, **(kwargs or {}))


class Watch(Hook):
    """Count from the third to the thirtieth training step, including all hooks."""

    priority = "HIGHEST"

    def __init__(self) -> None:
        self.counter = CountReads()

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter == 2:
            self.counter.__enter__()
        if runner.iter == 30:
            self.counter.__exit__(None, None, None)


def reads_in(work_dir: Path, hooks: list[Any]) -> int:
    watch = Watch()
    make_runner(
        work_dir,
        [watch, *hooks],
        dataset=Points(160),
        train_cfg={"max_epochs": 1},
        checkpoint={"by_epoch": False, "interval": 1000},
        param_scheduler={"type": "LinearLR", "by_epoch": False},
    ).train()
    return watch.counter.reads


class ReadsTheLoss(Hook):
    """A hook that waits for the device in each step."""

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        outputs["loss"].item()


def test_a_read_is_counted(tmp_path: Path) -> None:
    assert reads_in(tmp_path / "a", [ReadsTheLoss()]) - reads_in(tmp_path / "b", []) == 28


def test_no_hook_reads_a_tensor_in_a_step(tmp_path: Path) -> None:
    assert reads_in(tmp_path / "a", HOOKS) == reads_in(tmp_path / "b", [])
