"""How the schedulers of a run are resumed."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import Optimizer

from trainwright.engine.errors import CheckpointError
from trainwright.engine.optim.param_scheduler import _ParamScheduler
from trainwright.engine.optim.state_layout import FROM_WEIGHTS
from trainwright.engine.optim.wrapper import OptimWrapper
from trainwright.engine.records.logger import get_logger


def resume_param_schedulers(
    schedulers: Sequence[_ParamScheduler],
    states: Sequence[Mapping[str, Any]],
    *,
    optim_wrapper: OptimWrapper | None = None,
    epochs: int | None = None,
    iterations: int | None = None,
    epoch_length: int | None = None,
    path: str = "param_scheduler",
) -> None:
    """Restores the schedulers of one optimizer, whose own state must have been loaded before.

    The schedulers of a value that are those of the checkpoint go on from its value, to the same bits. If one has
    another class or setting, was added or taken away, that is logged, and the schedulers of the value are replayed
    from its initial one: from here on, it is that of a run that had the new schedulers from the start. Without
    schedulers it returns to the initial value.

    (What a ``ReduceOnPlateau`` did cannot be replayed: if only settings were changed, the value is kept as it was,
    and scheduled on by the new ones.)

    Args:
        schedulers: the schedulers, in order.
        states: their states, in the same order.
        optim_wrapper: the optimizer wrapper, for values that have no scheduler any more; not needed if there are
            schedulers.
        epochs: finished epochs of the run; as the states have counted them if None.
        iterations: finished iterations of the run, likewise.
        epoch_length: iterations in an epoch, for replaying schedulers by epoch and by iteration together.
        path: dotted path of their configs, for messages.

    Raises:
        CheckpointError: schedulers of a value were added, taken away or have another class, and a
            ``ReduceOnPlateau`` is among them.
    """
    optimizer = optim_wrapper or (schedulers[0].optimizer if schedulers else None)
    steps = {True: _steps_taken(states, by_epoch=True), False: _steps_taken(states, by_epoch=False)}
    steps.update({kind: given for kind, given in ((True, epochs), (False, iterations)) if given is not None})
    saved_names = {_param_name(state) for state in states}
    for name in sorted(saved_names | {scheduler.param_name for scheduler in schedulers}):
        chain = {
            f"{path}.{index}": scheduler for index, scheduler in enumerate(schedulers) if scheduler.param_name == name
        }
        saved = [state for state in states if _param_name(state) == name]
        if not _changed(chain, saved, f"{path} for {name}"):
            continue
        if any(map(_needs_metrics, chain.values())):
            get_logger().warning("%s stays as in the checkpoint: what ReduceOnPlateau did is not replayed", name)
        elif chain:
            _replay(list(chain.values()), steps, epoch_length)
        elif optimizer is not None:
            _unschedule(optimizer, name)


def _param_name(state: Mapping[str, Any]) -> str:
    return state.get("settings", state).get("param_name", "lr")  # type: ignore[no-any-return]


def _changed(chain: Mapping[str, _ParamScheduler], states: Sequence[Mapping[str, Any]], title: str) -> bool:
    """Load the states of the schedulers of a value, log what was changed since, and return whether anything was.

    Args:
        chain: the schedulers by the path of their config.
        states: their states.
        title: what to call them all together.
    """
    now = [type(scheduler).__name__ for scheduler in chain.values()]
    then = [state.get("class_name") for state in states]
    if len(now) != len(then) or any(saved not in (None, own) for saved, own in zip(then, now)):
        before, present = (", ".join(name or "(unknown)" for name in names) or "none" for names in (then, now))
        change = f"{title}: the checkpoint has {before}, this run has {present}"
        if any(map(_needs_metrics, chain.values())) or any("best" in state for state in states):
            raise CheckpointError(
                f"{change}. What ReduceOnPlateau did cannot be replayed: resume with the schedulers of that run, or "
                f"{FROM_WEIGHTS}"
            )
        get_logger().warning("%s. Values are those of a run with the present schedulers from the start", change)
        return True
    changed = False
    for (path, scheduler), state in zip(chain.items(), states):
        scheduler.load_state_dict(state)
        if changes := scheduler.changed_settings(state):
            changed = True
            shown = ", ".join(f"{name}: {old!r} -> {new!r}" for name, (old, new) in changes.items())
            get_logger().info("%s (%s) changed since the checkpoint: %s", path, type(scheduler).__name__, shown)
    return changed


def _unschedule(optimizer: OptimWrapper | Optimizer, name: str) -> None:
    """Give a value that has no scheduler any more back its initial one."""
    for group in optimizer.param_groups:
        if f"initial_{name}" not in group:
            continue
        initial = group.pop(f"initial_{name}")
        if name == "momentum" and name not in optimizer.defaults:  # see MomentumSchedulerMixin
            group.pop(name, None)
            group["betas"] = (initial, *group["betas"][1:])
        else:
            group[name] = initial


def _needs_metrics(scheduler: _ParamScheduler) -> bool:
    return getattr(scheduler, "need_val_args", False)


def _steps_taken(states: Sequence[Mapping[str, Any]], *, by_epoch: bool) -> int:
    return max(
        (
            state["_global_step"]
            for state in states
            if bool(state.get("settings", state).get("by_epoch", True)) is by_epoch
        ),
        default=0,
    )


def _replay(chain: Sequence[_ParamScheduler], steps: Mapping[bool, int], epoch_length: int | None) -> None:
    """Takes all steps of a run again, from the initial values, in the order of training.

    Args:
        chain: the schedulers of one value.
        steps: numbers of epochs (True) and iterations (False) that are finished.
        epoch_length: iterations in an epoch; an even share if None.
    """
    length = epoch_length or (steps[False] // steps[True] if steps[True] else 0)
    by_kind = {kind: [scheduler for scheduler in chain if scheduler.by_epoch is kind] for kind in (True, False)}
    for scheduler in chain:
        scheduler.rewind()
    for scheduler in chain:
        scheduler.step()

    def step(by_epoch: bool) -> None:
        for scheduler in by_kind[by_epoch]:
            scheduler.step()

    epochs = 0
    for iteration in range(1, steps[False] + 1 if by_kind[False] else 1):
        step(by_epoch=False)
        if length and iteration % length == 0 and epochs < steps[True]:
            step(by_epoch=True)
            epochs += 1
    for _ in range(epochs, steps[True]):
        step(by_epoch=True)
