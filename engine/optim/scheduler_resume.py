"""Resuming schedulers, including changed ones."""

from collections.abc import Mapping, Sequence
from typing import Any

from trainwright.engine.errors import CheckpointError
from trainwright.engine.optim.param_scheduler import AnyOptimizer, ParamScheduler
from trainwright.engine.optim.state_layout import FROM_WEIGHTS
from trainwright.engine.optim.wrapper import OptimWrapper
from trainwright.engine.records.logger import get_logger


def resume_param_schedulers(
    schedulers: Sequence[ParamScheduler],
    states: Sequence[Mapping[str, Any]],
    *,
    optim_wrapper: OptimWrapper | None = None,
    epochs: int | None = None,
    iterations: int | None = None,
    epoch_length: int | None = None,
    path: str = "param_scheduler",
) -> None:
    """Restore the schedulers of one optimizer, whose state must be loaded first.

    Unchanged schedulers of a value continue bit for bit. If one was added, removed, or has another class or setting,
    the change is logged and the schedulers are replayed from the initial value, as if the run had used them from the
    start. A value without schedulers is reset to its initial value.

    (``ReduceOnPlateau`` cannot be replayed: if only settings changed, the value is kept and the new settings apply
    from there.)

    Args:
        schedulers: the schedulers, in order.
        states: their states, in the same order.
        optim_wrapper: the optimizer wrapper, for values that no longer have a scheduler. Optional if there are
            schedulers.
        epochs: finished epochs of the run; None to infer them from the states.
        iterations: finished iterations of the run; None to infer them from the states.
        epoch_length: iterations per epoch, to interleave schedulers by epoch and by iteration.
        path: dotted path of their configs, for messages.

    Raises:
        CheckpointError: schedulers of a value were added, removed or replaced, and a ``ReduceOnPlateau`` is among them.
    """
    optimizer = optim_wrapper or (schedulers[0].optimizer if schedulers else None)
    epochs = _steps_taken(states, by_epoch=True) if epochs is None else epochs
    iterations = _steps_taken(states, by_epoch=False) if iterations is None else iterations
    saved_names = [_settings(state).get("param_name", "lr") for state in states]
    for name in sorted({*saved_names, *(scheduler.param_name for scheduler in schedulers)}):
        chain = {
            f"{path}.{index}": scheduler for index, scheduler in enumerate(schedulers) if scheduler.param_name == name
        }
        saved = [state for saved_name, state in zip(saved_names, states) if saved_name == name]
        if not _changed(chain, saved, f"{path} for {name}"):
            continue
        if any(scheduler.need_val_args for scheduler in chain.values()):
            get_logger().warning("%s is kept from the checkpoint: ReduceOnPlateau cannot be replayed", name)
        elif chain:
            _replay([*chain.values()], epochs, iterations, epoch_length)
        elif optimizer is not None:
            _unschedule(optimizer, name)


def _settings(state: Mapping[str, Any]) -> Mapping[str, Any]:
    return state.get("settings", state)  # type: ignore[no-any-return]  # MMEngine's states are flat


def _steps_taken(states: Sequence[Mapping[str, Any]], *, by_epoch: bool) -> int:
    steps = [state["_global_step"] for state in states if bool(_settings(state).get("by_epoch", True)) is by_epoch]
    return max(steps, default=0)


def _changed(chain: Mapping[str, ParamScheduler], states: Sequence[Mapping[str, Any]], title: str) -> bool:
    """Load the states of the schedulers of a value, given by config path; log and return whether any has changed."""
    now = [type(scheduler).__name__ for scheduler in chain.values()]
    then = [state.get("class_name") for state in states]
    if len(now) != len(then) or any(saved not in (None, own) for saved, own in zip(then, now)):
        before, present = (", ".join(name or "(unknown)" for name in names) or "none" for names in (then, now))
        change = f"{title}: the checkpoint has {before}, but this run has {present}"
        if any(scheduler.need_val_args for scheduler in chain.values()) or any("best" in state for state in states):
            raise CheckpointError(
                f"{change}. ReduceOnPlateau cannot be replayed: resume with the original schedulers, or {FROM_WEIGHTS}"
            )
        get_logger().warning("%s. Schedulers are replayed from the start", change)
        return True
    changed = False
    for (path, scheduler), state in zip(chain.items(), states):
        scheduler.load_state_dict(state)
        if changes := scheduler.changed_settings(state):
            changed = True
            shown = ", ".join(f"{name}: {old!r} -> {new!r}" for name, (old, new) in changes.items())
            get_logger().info("%s (%s) changed since the checkpoint: %s", path, type(scheduler).__name__, shown)
    return changed


def _unschedule(optimizer: AnyOptimizer, name: str) -> None:
    for group in optimizer.param_groups:
        if f"initial_{name}" not in group:
            continue
        initial = group.pop(f"initial_{name}")
        if name == "momentum" and name not in optimizer.defaults:  # see MomentumSchedulerMixin
            group.pop(name, None)
            group["betas"] = (initial, *group["betas"][1:])
        else:
            group[name] = initial


def _replay(chain: Sequence[ParamScheduler], epochs: int, iterations: int, epoch_length: int | None) -> None:
    """Replay the finished steps of a run in the order of training; epochs are of equal length by default."""
    length = epoch_length or (iterations // epochs if epochs else 0)
    by_epoch = [scheduler for scheduler in chain if scheduler.by_epoch]
    by_iteration = [scheduler for scheduler in chain if not scheduler.by_epoch]
    for scheduler in chain:
        scheduler.rewind()
    for scheduler in chain:
        scheduler.step()
    epoch = 0
    for iteration in range(1, iterations + 1):
        for scheduler in by_iteration:
            scheduler.step()
        if length and iteration % length == 0 and epoch < epochs:
            epoch += 1
            for scheduler in by_epoch:
                scheduler.step()
    for _ in range(epoch, epochs):
        for scheduler in by_epoch:
            scheduler.step()
