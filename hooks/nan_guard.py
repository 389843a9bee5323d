"""Watches for losses that are no longer numbers."""

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainwright.engine.data import position_of, sample_indices
from trainwright.engine.distributed import all_reduce
from trainwright.engine.errors import ConfigError, TrainingError, did_you_mean
from trainwright.engine.hook import DataBatch, Hook
from trainwright.engine.model_setup import unwrap
from trainwright.engine.registry import HOOKS
from trainwright.hooks.checkpoint import CheckpointHook
from trainwright.hooks.ema import EMAHook
from trainwright.hooks.gradient_accumulation import single_wrappers

if TYPE_CHECKING:
    from trainwright.engine.runner import Runner


@HOOKS.register_module()
class NanGuardHook(Hook):
    """Finds a loss that is NaN or infinite, and stops the training or rolls it back.

    The losses are kept as they are and read together, so that no step waits for the device: every
    ``interval`` iterations, at the end of an epoch, and whenever a checkpoint is about to be written; then
    the weights are looked at, too, so that no checkpoint ever holds a weight that is NaN. The message names
    the first bad iteration and the samples of its batch.

    A rollback puts back the weights, the optimizer's state, the loss scaler and averaged weights as they were
    at the last snapshot. The counters, the learning rates and the data go on: so the bad batches are left
    behind, and the schedule ends where it should.

    Cost per step: about 1 µs; every ``interval`` iterations one reading. With ``action="rollback"`` every
    ``snapshot_interval`` iterations a copy of the weights and the optimizer's state.

    Args:
        action: ``"stop"`` ends the run with an error, ``"rollback"`` goes on from the last snapshot.
        interval: read the losses every so many iterations.
        monitor: the name of the loss among the outputs of ``train_step``.
        max_rollbacks: how many times in a run to roll back before it ends with an error after all.
        snapshot_interval: take a snapshot every so many iterations, rounded up to the next reading.
        snapshot_device: where snapshots are kept, such as ``"cpu"``; by default on the device of the model.

    Raises:
        ConfigError: settings that are impossible.
    """

    priority = "BELOW_NORMAL"

    def __init__(
        self,
        action: str = "stop",
        interval: int = 50,
        monitor: str = "loss",
        max_rollbacks: int = 3,
        snapshot_interval: int = 500,
        snapshot_device: str | torch.device | None = None,
    ) -> None:
        if action not in ("stop", "rollback"):
            raise ConfigError("NanGuardHook.action", f"is 'stop' or 'rollback', not {action!r}")
        for name, value in (("interval", interval), ("snapshot_interval", snapshot_interval)):
            if value < 1:
                raise ConfigError(f"NanGuardHook.{name}", f"must be at least 1, but is {value}")
        self.action = action
        self.interval = interval
        self.monitor = monitor
        self.max_rollbacks = max_rollbacks
        self.snapshot_interval = snapshot_interval
        self.snapshot_device = None if snapshot_device is None else torch.device(snapshot_device)
        self.rollbacks = 0
        self._losses: list[Tensor] = []
        self._savers: list[CheckpointHook] = []
        self._snapshot: _Snapshot | None = None

    def state_dict(self) -> dict[str, int]:
        """Returns how many times the run was rolled back."""
        return {"rollbacks": self.rollbacks}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Takes over what :meth:`state_dict` returned."""
        self.rollbacks = state["rollbacks"]

    def before_train(self, runner: "Runner") -> None:
        """Finds the hooks that save within an epoch, and takes the first snapshot."""
        self._losses = []
        self._savers = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook) and not hook.by_epoch]
        if self.action == "rollback":
            self._snapshot = _Snapshot(runner, self.snapshot_device)

    def after_train_iter(
        self,
        runner: "Runner",
        batch_idx: int,
        data_batch: DataBatch = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Keeps the loss, and reads the kept ones if it is time."""
        try:
            self._losses.append(outputs[self.monitor].detach())  # type: ignore[index]  # None is explained below
        except (KeyError, TypeError) as error:
            raise self._missing_loss(outputs) from error
        if len(self._losses) >= self.interval or any(saver.is_due_after_iter(runner) for saver in self._savers):
            self._check(runner, runner.iter)

    def after_train_epoch(self, runner: "Runner") -> None:
        """Reads what is left of the epoch, before a checkpoint is written."""
        self._check(runner, runner.iter - 1)

    def before_save_checkpoint(self, runner: "Runner", checkpoint: dict[str, Any]) -> None:
        """Refuses to save weights that are not finite, for checkpoints that come unannounced."""
        if not _all_finite(unwrap(runner.model).parameters()):
            raise TrainingError("the weights are not finite, so this checkpoint is not written; the previous one stays")

    def after_train(self, runner: "Runner") -> None:
        """Lets the snapshot go."""
        self._losses = []
        self._snapshot = None

    def _check(self, runner: "Runner", newest: int) -> None:
        """Reads the kept losses; the last of them is that of iteration ``newest``."""
        if not self._losses:
            return
        values = torch.stack([torch.as_tensor(loss).detach().float().reshape(()) for loss in self._losses]).tolist()
        first = newest - len(values) + 1
        self._losses = []
        bad = [(first + index, value) for index, value in enumerate(values) if not math.isfinite(value)]
        healthy = not bad and (not self._looks_at_weights(runner, newest) or _all_finite(runner.model.parameters()))
        if _agree(healthy, runner):
            if self._snapshot is not None and newest + 1 - self._snapshot.iteration >= self.snapshot_interval:
                self._snapshot = _Snapshot(runner, self.snapshot_device)
            return
        problem = self._describe(runner, bad, first, newest)
        if self._snapshot is None:
            raise TrainingError(f"{problem}\n{_REMEDY}")
        if self.rollbacks >= self.max_rollbacks:
            raise TrainingError(f"{problem}\nThe run was rolled back {self.rollbacks} times already.\n{_REMEDY}")
        self.rollbacks += 1
        self._snapshot.restore()
        runner.logger.warning(
            f"{problem}\nROLLED BACK to the state after {self._snapshot.iteration} iterations "
            f"({self.rollbacks} of at most {self.max_rollbacks}); the training goes on with the next batches."
        )

    def _looks_at_weights(self, runner: "Runner", newest: int) -> bool:
        """Whether a checkpoint or a snapshot may follow: the last update can have spoilt the weights."""
        snapshot_due = self._snapshot is not None and newest + 1 - self._snapshot.iteration >= self.snapshot_interval
        return snapshot_due or newest != runner.iter or any(saver.is_due_after_iter(runner) for saver in self._savers)

    def _describe(self, runner: "Runner", bad: list[tuple[int, float]], first: int, newest: int) -> str:
        if not bad:
            return f"The weights after iteration {newest + 1} are not finite, though its {self.monitor} was."
        iteration, value = bad[0]
        share = f"{len(bad)} of iterations {first + 1} to {newest + 1} are not finite"
        lines = [f"The {self.monitor} of iteration {iteration + 1} is {value} ({share})."]
        indices = _indices_of(runner, iteration)
        if indices is not None:
            lines.append(f"Its batch had the samples {indices}.")
            if paths := _paths_of(runner, indices):
                lines.append(f"Their files: {', '.join(paths)}.")
        return "\n".join(lines)

    def _missing_loss(self, outputs: Any) -> ConfigError:
        names = list(outputs) if isinstance(outputs, Mapping) else []
        hint = did_you_mean(self.monitor, names) or f"they are: {', '.join(names) or 'none'}"
        return ConfigError("NanGuardHook.monitor", f"train_step returned no {self.monitor!r}", hint)


_REMEDY = (
    "No weights of this state were saved: resume from the last checkpoint. Look at those samples; then "
    "a lower learning rate, a warm-up, clip_grad=dict(max_norm=…), or bfloat16 instead of float16 may help. "
    "NanGuardHook(action='rollback') leaves single bad batches behind by itself."
)


class _Snapshot:
    """A copy of what a training step changes.

    Args:
        runner: the run.
        device: where to keep it; by default where each tensor is.
    """

    def __init__(self, runner: "Runner", device: torch.device | None) -> None:
        self.iteration: int = runner.state.state_dict()["iter"]
        self._wrappers = single_wrappers(runner.optim_wrapper)
        self._modules = [unwrap(runner.model)]
        self._modules += [hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook)]
        self._weights = [_copy(module.state_dict(), device) for module in self._modules]
        self._optimizers = []
        for wrapper in self._wrappers:
            state = wrapper.state_dict()
            state.pop("accumulation", None)  # how many losses there were is a counter, it goes on
            self._optimizers.append(_copy(state, device))

    def restore(self) -> None:
        """Puts the copy back, all but the optimizers' settings, which follow their schedule."""
        for module, weights in zip(self._modules, self._weights):
            module.load_state_dict(weights)
        for wrapper, state in zip(self._wrappers, self._optimizers):
            settings = [
                {key: value for key, value in group.items() if key != "params"} for group in wrapper.param_groups
            ]
            wrapper.load_state_dict(_copy(state, None))
            for group, kept in zip(wrapper.param_groups, settings):
                group.update(kept)
            wrapper.zero_grad()


def _copy(value: Any, device: torch.device | None) -> Any:
    """Returns a deep copy of containers and tensors."""
    if isinstance(value, Tensor):
        return value.detach().to(device or value.device, copy=True)
    if isinstance(value, Mapping):
        return {key: _copy(item, device) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copy(item, device) for item in value)
    return value


def _all_finite(tensors: Iterable[Tensor]) -> bool:
    flags = [torch.isfinite(tensor).all() for tensor in tensors]
    return not flags or bool(torch.stack(flags).all())


def _agree(healthy: bool, runner: "Runner") -> bool:
    """Returns whether all processes are healthy."""
    if runner.world_size == 1:
        return healthy
    flag = torch.tensor(int(healthy))
    all_reduce(flag, "min")
    return bool(flag)


def _indices_of(runner: "Runner", iteration: int) -> list[int] | None:
    """Returns the samples of an iteration of the epoch in progress, if they can be worked out."""
    state, loader = runner.state, runner.train_dataloader
    position = state.inner_iter - (state.iter - iteration) + state.data_shift
    if position < 0:
        return None
    data_pass, batch = position_of(loader, position)
    return sample_indices(loader, state.epoch + data_pass, batch)


def _paths_of(runner: "Runner", indices: list[int]) -> list[str]:
    """Returns the image files of samples, where the dataset knows them."""
    get_data_info = getattr(getattr(runner.train_dataloader, "dataset", None), "get_data_info", None)
    if get_data_info is None:
        return []
    infos = [get_data_info(index) for index in indices]
    return [str(info["img_path"]) for info in infos if isinstance(info, Mapping) and "img_path" in info]
