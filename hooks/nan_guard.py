"""Watches for losses that are no longer numbers."""

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainwright.engine.checkpoints.writer import averaged_models
from trainwright.engine.data.loader import position_of, sample_indices
from trainwright.engine.distributed import all_reduce
from trainwright.engine.errors import ConfigError, TrainingError, did_you_mean
from trainwright.engine.registry import HOOKS
from trainwright.engine.run.hook import DataBatch, Hook
from trainwright.engine.run.model_setup import unwrap
from trainwright.hooks.gradient_accumulation import single_wrappers

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner


@HOOKS.register_module()
class NanGuardHook(Hook):
    """Finds a loss that is NaN or infinite, and stops the training or rolls it back.

    The losses are kept as they are and read together, so that no step waits for the device: every
    ``interval`` iterations, at the end of an epoch, before a validation, and whenever a checkpoint is about to
    be written, whoever writes it. Except every ``interval`` iterations the weights are looked at, too, so that
    no checkpoint ever holds a weight that is NaN. The message names the first bad iteration and the samples
    of its batch.

    A rollback puts back the weights, the optimizer's state, the loss scaler and averaged weights as they were
    at the last snapshot. The counters, the learning rates and the data go on: so the bad batches are left
    behind, and the schedule ends where it should. The snapshot is part of each checkpoint, which takes about
    twice the space then, so a resumed run rolls back to the same state as an uninterrupted one. Where a run
    that is stopped rolls back before its regular reading, what a resumed run trains until then is undone at
    that reading, as the uninterrupted run would have done.

    Cost per step: about 1 µs; every ``interval`` iterations one reading. With ``action="rollback"`` every
    ``snapshot_interval`` iterations a copy of the weights and the optimizer's state.

    Args:
        action: ``"stop"`` ends the run with an error, ``"rollback"`` goes on from the last snapshot.
        interval: read the losses every so many iterations.
        monitor: the name of the loss among the outputs of ``train_step``.
        max_rollbacks: how many times in a run to roll back before it ends with an error after all.
        snapshot_interval: take a snapshot every so many iterations, rounded up to a multiple of ``interval``.
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
        self._losses: list[tuple[int, Tensor]] = []
        self._snapshot: _Snapshot | None = None
        self._saved_snapshot: dict[str, Any] | None = None
        self._undoes_until_reading = False
        self._looked_at = 0
        self._restored_at = -1

    def state_dict(self) -> dict[str, Any]:
        """Return how many times the run was rolled back, and the snapshot."""
        state: dict[str, Any] = {"rollbacks": self.rollbacks, "undoes_until_reading": self._undoes_until_reading}
        if self._snapshot is not None:
            state["snapshot"] = self._snapshot.contents
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned."""
        self.rollbacks = state["rollbacks"]
        self._undoes_until_reading = state.get("undoes_until_reading", False)
        self._saved_snapshot = state.get("snapshot")

    def before_train(self, runner: "Runner") -> None:
        """Take the first snapshot, or take over that of the checkpoint."""
        self._losses = []
        self._looked_at = runner.iter
        saved, self._saved_snapshot = self._saved_snapshot, None
        if self.action != "rollback":
            self._snapshot = None
        elif saved is not None or self._snapshot is None:
            self._snapshot = _Snapshot(runner, self.snapshot_device)
            if saved is not None and not self._snapshot.take_over(saved):
                runner.logger.warning("The NanGuardHook's snapshot in the checkpoint does not fit: a new one is taken.")
        self._undoes_until_reading = self._undoes_until_reading and self._snapshot is not None

    def after_train_iter(
        self,
        runner: "Runner",
        batch_idx: int,
        data_batch: DataBatch = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Keeps the loss, and reads the kept ones if it is time."""
        if self._restored_at == runner.iter + 1:  # a hook before this one saved, and so this iteration is undone
            return
        try:
            self._losses.append((runner.iter, outputs[self.monitor].detach()))  # type: ignore[index]  # None is explained below
        except (KeyError, TypeError) as error:
            raise self._missing_loss(outputs) from error
        if (runner.iter + 1) % self.interval == 0:
            last = None if self._snapshot is None else self._snapshot.iteration
            due = last is not None and runner.iter + 1 - last >= self.snapshot_interval
            if self._read(runner, weights=due) and due:
                self._snapshot = _Snapshot(runner, self.snapshot_device)

    def after_train_epoch(self, runner: "Runner") -> None:
        """Read what is left of the epoch."""
        self._read(runner, regular=_within_a_step(runner))

    def before_val(self, runner: "Runner") -> None:
        """Read what is left, so that no weights are validated that a rollback undoes."""
        self._read(runner)

    def before_snapshot(self, runner: "Runner") -> None:
        """Read what is left before a checkpoint is written."""
        self._read(runner, regular=_within_a_step(runner))

    def after_run(self, runner: "Runner") -> None:
        """Let the snapshot go, unless the run may be continued."""
        self._losses = []
        if not runner.state.interrupted:
            self._snapshot = None

    def _read(self, runner: "Runner", *, regular: bool = True, weights: bool = True) -> bool:
        """Read the kept losses.

        Args:
            runner: the run.
            regular: whether an uninterrupted run reads here as well.
            weights: whether a checkpoint, a snapshot or a validation may follow: the last update can have spoilt
                the weights.

        Returns:
            Whether all is well; if not, the run was rolled back.

        Raises:
            TrainingError: it is not, and the run cannot be rolled back.
        """
        done = runner.state.state_dict()["iter"]
        losses, self._losses = self._losses, []
        if self._undoes_until_reading and self._snapshot is not None:
            self._restore(done, regular)
            if regular:
                iteration = self._snapshot.iteration
                runner.logger.warning(f"The iterations after {iteration} are undone, as without the stop.")
            return False
        if not losses and (not weights or self._looked_at == done):
            return True
        tensors = [torch.as_tensor(loss).detach().float().reshape(()) for _, loss in losses]
        values = torch.stack(tensors).tolist() if tensors else []
        bad = [(iteration, value) for (iteration, _), value in zip(losses, values) if not math.isfinite(value)]
        healthy = not bad and (not weights or _all_finite(unwrap(runner.model).parameters()))
        self._looked_at = done if weights else self._looked_at
        if _agree(healthy, runner):
            return True
        problem = self._describe(runner, bad, losses[0][0] if losses else done, done)
        if self._snapshot is None:
            raise TrainingError(f"{problem}\n{_REMEDY}")
        if self.rollbacks >= self.max_rollbacks:
            raise TrainingError(f"{problem}\nThe run was rolled back {self.rollbacks} times already.\n{_REMEDY}")
        self.rollbacks += 1
        self._restore(done, regular)
        runner.logger.warning(
            f"{problem}\nROLLED BACK to the state after {self._snapshot.iteration} iterations "
            f"({self.rollbacks} of at most {self.max_rollbacks}); the training goes on with the next batches."
        )
        return False

    def _restore(self, done: int, regular: bool) -> None:
        assert self._snapshot is not None
        self._snapshot.restore()
        self._looked_at = self._restored_at = done
        self._undoes_until_reading = not regular

    def _describe(self, runner: "Runner", bad: list[tuple[int, float]], first: int, done: int) -> str:
        if not bad:
            return f"The weights after iteration {done} are not finite, though its {self.monitor} was."
        iteration, value = bad[0]
        share = f"{len(bad)} of iterations {first + 1} to {done} are not finite"
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
        self._wrappers = single_wrappers(runner.optim_wrapper)
        self._modules = [unwrap(runner.model), *averaged_models(runner)]
        optimizers = []
        for wrapper in self._wrappers:
            state = wrapper.state_dict()
            for key in ("param_groups", "base_param_settings"):
                state.pop(key, None)  # they follow the schedule
            state.pop("accumulation", None)  # how many losses there were is a counter, it goes on
            optimizers.append(state)
        self.contents: dict[str, Any] = {
            "iteration": runner.state.state_dict()["iter"],
            "modules": _copy([dict(module.state_dict()) for module in self._modules], device),
            "optimizers": _copy(optimizers, device),
        }

    @property
    def iteration(self) -> int:
        """The number of iterations after which it was taken."""
        return int(self.contents["iteration"])

    def take_over(self, contents: dict[str, Any]) -> bool:
        """Replace the copy by one from a checkpoint, if that is one of the same parts, and return whether it is."""
        fits = all(
            [part.keys() for part in contents[name]] == [part.keys() for part in self.contents[name]]
            for name in ("modules", "optimizers")
        )
        if fits:
            self.contents = contents
        return fits

    def restore(self) -> None:
        """Put the copy back, all but the optimizers' settings, which follow their schedule."""
        for module, weights in zip(self._modules, self.contents["modules"]):
            module.load_state_dict(weights)
        for wrapper, state in zip(self._wrappers, self.contents["optimizers"]):
            groups = wrapper.optimizer.state_dict()["param_groups"]
            wrapper.load_state_dict({**_copy(state, None), "param_groups": groups})
            wrapper.zero_grad()


def _within_a_step(runner: "Runner") -> bool:
    """Return whether the hooks of an iteration or epoch are being called. Only a stop is saved outside of these."""
    return runner.state.iter_done or runner.state.epoch_done


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
