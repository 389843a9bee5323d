"""The schedulers for learning rate and momentum, and how they are built and resumed."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import Optimizer

from trainwright.engine.building import origin_of, resolve
from trainwright.engine.errors import CheckpointError, ConfigError
from trainwright.engine.optim.param_scheduler import (
    INF as INF,
)
from trainwright.engine.optim.param_scheduler import (
    ConstantParamScheduler,
    CosineAnnealingParamScheduler,
    CosineRestartParamScheduler,
    ExponentialParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
    OneCycleParamScheduler,
    PolyParamScheduler,
    ReduceOnPlateauParamScheduler,
    StepParamScheduler,
)
from trainwright.engine.optim.param_scheduler import _ParamScheduler as _ParamScheduler
from trainwright.engine.optim.state_layout import FROM_WEIGHTS
from trainwright.engine.optim.wrapper import OptimWrapper, OptimWrapperDict
from trainwright.engine.parts import PARAM_SCHEDULER
from trainwright.engine.records.logger import get_logger
from trainwright.engine.registry import PARAM_SCHEDULERS

Schedulers = list[_ParamScheduler] | dict[str, list[_ParamScheduler]]


class LRSchedulerMixin:
    """Makes a scheduler one of the learning rate."""

    def __init__(self, optimizer: OptimWrapper | Optimizer, *args: Any, **kwargs: Any) -> None:
        super().__init__(optimizer, "lr", *args, **kwargs)  # type: ignore[call-arg]  # the scheduler mixed with


class MomentumSchedulerMixin:
    """Makes a scheduler one of the momentum: ``momentum`` of SGD and its like, ``betas[0]`` of the Adam
    family.

    Raises:
        ValueError: the optimizer has neither.
    """

    optimizer: OptimWrapper | Optimizer

    def __init__(self, optimizer: OptimWrapper | Optimizer, *args: Any, **kwargs: Any) -> None:
        self.use_betas = "momentum" not in optimizer.defaults
        if self.use_betas:
            if "betas" not in optimizer.defaults:
                raise ValueError("this optimizer has no momentum to schedule: neither 'momentum' nor 'betas'")
            for group in optimizer.param_groups:
                group["momentum"] = group["betas"][0]
        super().__init__(optimizer, "momentum", *args, **kwargs)  # type: ignore[call-arg]  # the scheduler mixed with

    def _read_base_values(self) -> None:
        if self.use_betas:
            for group in self.optimizer.param_groups:
                group.setdefault("momentum", group["betas"][0])
        super()._read_base_values()  # type: ignore[misc]  # the scheduler mixed with

    def step(self, *args: Any) -> None:
        """Takes a step: sets the momentum of each group."""
        super().step(*args)  # type: ignore[misc]  # the scheduler mixed with
        if self.use_betas:
            for group in self.optimizer.param_groups:
                group["betas"] = (group["momentum"], *group["betas"][1:])


@PARAM_SCHEDULERS.register_module()
class StepLR(LRSchedulerMixin, StepParamScheduler):
    """:class:`StepParamScheduler` of the learning rate: its arguments without ``param_name``."""


@PARAM_SCHEDULERS.register_module()
class MultiStepLR(LRSchedulerMixin, MultiStepParamScheduler):
    """:class:`MultiStepParamScheduler` of the learning rate: its arguments without ``param_name``."""


@PARAM_SCHEDULERS.register_module()
class ConstantLR(LRSchedulerMixin, ConstantParamScheduler):
    """:class:`ConstantParamScheduler` of the learning rate: its arguments without ``param_name``."""


@PARAM_SCHEDULERS.register_module()
class ExponentialLR(LRSchedulerMixin, ExponentialParamScheduler):
    """:class:`ExponentialParamScheduler` of the learning rate: its arguments without ``param_name``."""


@PARAM_SCHEDULERS.register_module()
class CosineAnnealingLR(LRSchedulerMixin, CosineAnnealingParamScheduler):
    """:class:`CosineAnnealingParamScheduler` of the learning rate: its arguments without ``param_name``."""


@PARAM_SCHEDULERS.register_module()
class LinearLR(LRSchedulerMixin, LinearParamScheduler):
    """:class:`LinearParamScheduler` of the learning rate: its arguments without ``param_name``."""


@PARAM_SCHEDULERS.register_module()
class PolyLR(LRSchedulerMixin, PolyParamScheduler):
    """:class:`PolyParamScheduler` of the learning rate: its arguments without ``param_name``."""


@PARAM_SCHEDULERS.register_module()
class OneCycleLR(LRSchedulerMixin, OneCycleParamScheduler):
    """:class:`OneCycleParamScheduler` of the learning rate: its arguments without ``param_name``."""


@PARAM_SCHEDULERS.register_module()
class CosineRestartLR(LRSchedulerMixin, CosineRestartParamScheduler):
    """:class:`CosineRestartParamScheduler` of the learning rate: its arguments without ``param_name``."""


@PARAM_SCHEDULERS.register_module()
class ReduceOnPlateauLR(LRSchedulerMixin, ReduceOnPlateauParamScheduler):
    """:class:`ReduceOnPlateauParamScheduler` of the learning rate: its arguments without ``param_name``."""


@PARAM_SCHEDULERS.register_module()
class StepMomentum(MomentumSchedulerMixin, StepParamScheduler):
    """:class:`StepParamScheduler` of the momentum: its arguments without ``param_name``."""


@PARAM_SCHEDULERS.register_module()
class MultiStepMomentum(MomentumSchedulerMixin, MultiStepParamScheduler):
    """:class:`MultiStepParamScheduler` of the momentum: its arguments without ``param_name``."""


@PARAM_SCHEDULERS.register_module()
class ConstantMomentum(MomentumSchedulerMixin, ConstantParamScheduler):
    """:class:`ConstantParamScheduler` of the momentum: its arguments without ``param_name``."""


@PARAM_SCHEDULERS.register_module()
class ExponentialMomentum(MomentumSchedulerMixin, ExponentialParamScheduler):
    """:class:`ExponentialParamScheduler` of the momentum: its arguments without ``param_name``."""


@PARAM_SCHEDULERS.register_module()
class CosineAnnealingMomentum(MomentumSchedulerMixin, CosineAnnealingParamScheduler):
    """:class:`CosineAnnealingParamScheduler` of the momentum: its arguments without ``param_name``."""


@PARAM_SCHEDULERS.register_module()
class LinearMomentum(MomentumSchedulerMixin, LinearParamScheduler):
    """:class:`LinearParamScheduler` of the momentum: its arguments without ``param_name``."""


@PARAM_SCHEDULERS.register_module()
class PolyMomentum(MomentumSchedulerMixin, PolyParamScheduler):
    """:class:`PolyParamScheduler` of the momentum: its arguments without ``param_name``."""


@PARAM_SCHEDULERS.register_module()
class CosineRestartMomentum(MomentumSchedulerMixin, CosineRestartParamScheduler):
    """:class:`CosineRestartParamScheduler` of the momentum: its arguments without ``param_name``."""


@PARAM_SCHEDULERS.register_module()
class ReduceOnPlateauMomentum(MomentumSchedulerMixin, ReduceOnPlateauParamScheduler):
    """:class:`ReduceOnPlateauParamScheduler` of the momentum: its arguments without ``param_name``."""


def build_param_scheduler(
    cfg: Any,
    optim_wrapper: OptimWrapper,
    *,
    max_epochs: int | None = None,
    max_iters: int | None = None,
    epoch_length: int | None = None,
    path: str = "param_scheduler",
) -> Schedulers:
    """Builds the schedulers of a run.

    Keys of a scheduler's config beside the arguments of its class: ``convert_to_iter_based=True`` takes
    settings in epochs and steps with each iteration. ``end`` is the end of the run by default.

    Args:
        cfg: a config, a scheduler, or a list of them. For an :class:`OptimWrapperDict` also such by name of
            wrapper; otherwise each wrapper gets schedulers of its own from the same configs.
        optim_wrapper: the optimizer wrapper.
        max_epochs: epochs of the run.
        max_iters: iterations of the run.
        epoch_length: iterations in an epoch.
        path: dotted path of ``cfg``, for messages.

    Returns:
        The schedulers in order; by name of wrapper for an :class:`OptimWrapperDict`.

    Raises:
        ConfigError: a config is wrong.
    """
    defaults = {True: max_epochs, False: max_iters}

    def build_list(configs: Any, wrapper: OptimWrapper, place: str) -> list[_ParamScheduler]:
        if not isinstance(configs, list | tuple):
            return [_build_scheduler(configs, wrapper, defaults, epoch_length, place)]
        return [
            _build_scheduler(item, wrapper, defaults, epoch_length, f"{place}.{index}")
            for index, item in enumerate(configs)
        ]

    if not isinstance(optim_wrapper, OptimWrapperDict):
        return build_list(cfg, optim_wrapper, path)
    if not isinstance(cfg, Mapping) or "type" in cfg:
        return {name: build_list(cfg, wrapper, path) for name, wrapper in optim_wrapper.items()}
    if set(cfg) != set(optim_wrapper.keys()):
        raise ConfigError(
            path, f"its names {sorted(cfg)} are not those of the optimizers", ", ".join(optim_wrapper.keys())
        )
    return {name: build_list(cfg[name], wrapper, f"{path}.{name}") for name, wrapper in optim_wrapper.items()}


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


def beyond_end(cfg: Mapping[str, Any], max_epochs: int | None, max_iters: int | None) -> str | None:
    """Returns what in a scheduler's config lies beyond the end of the run, or None.

    Args:
        cfg: config of a scheduler.
        max_epochs: epochs of the run.
        max_iters: iterations of the run, where known.
    """
    by_epoch = cfg.get("by_epoch", True)
    last, unit = (max_epochs, "epochs") if by_epoch else (max_iters, "iterations")
    if last is None:
        return None
    begin = cfg.get("begin", 0)
    if isinstance(begin, int | float) and begin >= last:
        return f"it begins at {begin}, the run ends after {last} {unit}"
    milestones = cfg.get("milestones")
    if isinstance(milestones, list | tuple) and milestones and all(begin + step >= last for step in milestones):
        return f"all its milestones {list(milestones)} lie beyond the end of the run after {last} {unit}"
    return None


def _build_scheduler(
    cfg: Any, wrapper: OptimWrapper, defaults: Mapping[bool, int | None], epoch_length: int | None, path: str
) -> _ParamScheduler:
    if isinstance(cfg, _ParamScheduler):
        return cfg
    if not isinstance(cfg, Mapping):
        raise ConfigError(path, f"expected the config of a scheduler, not {cfg!r}")
    if "type" not in cfg:
        raise ConfigError(path, "this parameter scheduler has no 'type'", f"its keys: {', '.join(map(str, cfg))}")
    by_epoch = cfg.get("by_epoch", True)
    runtime: dict[str, Any] = {"optimizer": wrapper}
    if defaults[bool(by_epoch)] is not None:
        runtime["end"] = defaults[bool(by_epoch)]
    if PARAM_SCHEDULER.read(cfg, "convert_to_iter_based"):
        with PARAM_SCHEDULERS.switch_scope(cfg.get("_scope_")) as registry:
            scheduler_class: Any = resolve(cfg["type"], registry, path=path, origin=origin_of(cfg, "type"))
        if not by_epoch:
            raise ConfigError(f"{path}.convert_to_iter_based", "it converts settings in epochs: by_epoch must be True")
        runtime["epoch_length"] = cfg.get("epoch_length", epoch_length)
        if not runtime["epoch_length"]:
            raise ConfigError(
                f"{path}.convert_to_iter_based", "the length of an epoch is not known: give 'epoch_length'"
            )
        cfg = {**cfg, "type": scheduler_class.build_iter_from_epoch}
    return PARAM_SCHEDULER.build(cfg, path=path, **runtime)  # type: ignore[no-any-return]


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
