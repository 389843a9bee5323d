"""Record the state of the run in the message hub."""

import copy
import numbers
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from trainwright.engine.records.history import Series
from trainwright.engine.registry import HOOKS
from trainwright.engine.run.environment import package_version
from trainwright.engine.run.hook import DataBatch, Hook

if TYPE_CHECKING:
    from trainwright.engine.records.message_hub import MessageHub
    from trainwright.engine.run.runner import Runner


_FLUSH_INTERVAL = 1024
"""Maximum number of iterations between flushes of the hub, to bound the number of pending tensors."""


@HOOKS.register_module()
class RuntimeInfoHook(Hook):
    """Record progress, learning rates, losses and metrics in the message hub.

    Scalars are ``train/lr`` and ``train/base_lr`` (of the first parameter group), ``train/…`` for the output of
    ``train_step``, and ``val/…`` and ``test/…`` for metrics. Runtime info is ``cfg``, ``seed``,
    ``experiment_name``, ``trainwright_version``, ``loop_stage``, ``epoch``, ``iter``, ``max_epochs``,
    ``max_iters``, ``dataset_meta``, and metrics that are not scalars.

    Cost per step: about 5 µs.
    """

    priority = "VERY_HIGH"

    def __init__(self) -> None:
        self._outer_stage: str | None = None
        self._series: dict[str, Series] = {}

    def before_run(self, runner: "Runner") -> None:
        """Record the config, the seed and the name of the experiment."""
        runner.message_hub.update_info_dict(
            {
                "cfg": runner.cfg.pretty_text,
                "seed": runner.seed,
                "experiment_name": runner.experiment_name,
                "trainwright_version": package_version("trainwright"),
            }
        )

    def before_train(self, runner: "Runner") -> None:
        """Record the progress and the end of the training.

        A resumed run keeps the epoch and the iteration from the checkpoint, so that a validation that is repeated on
        resume sees the same values as in an uninterrupted run.
        """
        hub = runner.message_hub
        hub.update_info_dict(
            {
                "loop_stage": "train",
                "epoch": hub.get_info("epoch", runner.epoch),
                "iter": hub.get_info("iter", runner.iter),
                "max_epochs": runner.max_epochs,
                "max_iters": runner.max_iters,
            }
        )
        self._series = {}
        if runner.dataset_meta is not None:
            hub.update_info("dataset_meta", copy.deepcopy(runner.dataset_meta))

    def after_train(self, runner: "Runner") -> None:
        """Clear the loop stage."""
        runner.message_hub.pop_info("loop_stage")

    def before_train_epoch(self, runner: "Runner") -> None:
        """Record the epoch."""
        runner.message_hub.update_info("epoch", runner.epoch)

    def before_train_iter(self, runner: "Runner", batch_idx: int, data_batch: DataBatch = None) -> None:
        """Record the iteration and the learning rates."""
        hub = runner.message_hub
        hub.runtime_info["iter"] = runner.iter
        if batch_idx % _FLUSH_INTERVAL == 0:
            hub.flush()
        for name, rates in runner.optim_wrapper.get_lr().items():
            rate = rates[0]
            # Schedulers change tensor learning rates in place, and the hub reads them later.
            self._add(hub, name, rate.detach().clone() if isinstance(rate, Tensor) else rate)

    def after_train_iter(
        self,
        runner: "Runner",
        batch_idx: int,
        data_batch: DataBatch = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Record the losses without waiting for the device."""
        if outputs is not None:
            for name, value in outputs.items():
                self._add(runner.message_hub, name, value.detach() if isinstance(value, Tensor) else value)

    def _add(self, hub: "MessageHub", name: str, value: Any) -> None:
        series = self._series.get(name)
        if series is None:
            hub.update_scalar(f"train/{name}", value)  # validates the first value
            self._series[name] = hub.series(f"train/{name}")
        else:
            series.add(value)

    def before_val(self, runner: "Runner") -> None:
        """Set the loop stage to ``val``."""
        self._outer_stage = runner.message_hub.get_info("loop_stage")
        runner.message_hub.update_info("loop_stage", "val")

    def after_val_epoch(self, runner: "Runner", metrics: dict[str, Any] | None = None) -> None:
        """Record the metrics."""
        _update_metrics(runner, "val", metrics)

    def after_val(self, runner: "Runner") -> None:
        """Restore the loop stage."""
        if self._outer_stage == "train":
            runner.message_hub.update_info("loop_stage", "train")
        else:
            runner.message_hub.pop_info("loop_stage")

    def before_test(self, runner: "Runner") -> None:
        """Set the loop stage to ``test``."""
        runner.message_hub.update_info("loop_stage", "test")

    def after_test_epoch(self, runner: "Runner", metrics: dict[str, Any] | None = None) -> None:
        """Record the metrics."""
        _update_metrics(runner, "test", metrics)

    def after_test(self, runner: "Runner") -> None:
        """Clear the loop stage."""
        runner.message_hub.pop_info("loop_stage")


def _update_metrics(runner: "Runner", mode: str, metrics: dict[str, Any] | None) -> None:
    for name, value in (metrics or {}).items():
        if _is_scalar(value):
            runner.message_hub.update_scalar(f"{mode}/{name}", value)
        else:
            runner.message_hub.update_info(f"{mode}/{name}", value)


def _is_scalar(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1
    if isinstance(value, np.ndarray):
        return value.size == 1
    return isinstance(value, numbers.Real)
