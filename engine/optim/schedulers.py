"""Schedulers of the learning rate and the momentum, and building them from configs."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec

from trainwright.engine.building import missing_type, origin_of, resolve
from trainwright.engine.errors import ConfigError, did_you_mean
from trainwright.engine.optim.param_scheduler import AnyOptimizer, ParamScheduler, Schedule
from trainwright.engine.optim.rules import (
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
from trainwright.engine.optim.wrapper import OptimWrapper
from trainwright.engine.optim.wrapper_dict import AnyOptimWrapper, OptimWrapperDict
from trainwright.engine.parts import PARAM_SCHEDULER
from trainwright.engine.registry import PARAM_SCHEDULERS

Schedulers = list[ParamScheduler] | dict[str, list[ParamScheduler]]
Arguments = ParamSpec("Arguments")


class LRSchedulerMixin:
    """A mixin that turns a scheduler into one of the learning rate."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__doc__ = cls.__doc__ or _doc_of(super(), "the learning rate")

    def __init__(self, optimizer: AnyOptimizer, *args: Any, **kwargs: Any) -> None:
        super().__init__(optimizer, "lr", *args, **kwargs)  # type: ignore[call-arg]  # the scheduler mixed with


class MomentumSchedulerMixin:
    """A mixin that turns a scheduler into one of the momentum: ``betas[0]`` for the Adam family.

    Raises:
        ValueError: the optimizer has no momentum.
    """

    optimizer: AnyOptimizer

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__doc__ = cls.__doc__ or _doc_of(super(), "the momentum")

    def __init__(self, optimizer: AnyOptimizer, *args: Any, **kwargs: Any) -> None:
        self.use_betas = "momentum" not in optimizer.defaults
        if self.use_betas:
            if "betas" not in optimizer.defaults:
                raise ValueError("the optimizer has no momentum to schedule: neither 'momentum' nor 'betas'")
            for group in optimizer.param_groups:
                group["momentum"] = group["betas"][0]
        super().__init__(optimizer, "momentum", *args, **kwargs)  # type: ignore[call-arg]  # the scheduler mixed with

    def _read_base_values(self) -> None:
        if self.use_betas:
            for group in self.optimizer.param_groups:
                group.setdefault("momentum", group["betas"][0])
        super()._read_base_values()  # type: ignore[misc]  # the scheduler mixed with

    def step(self, *args: Any) -> None:
        super().step(*args)  # type: ignore[misc]  # the scheduler mixed with
        if self.use_betas:
            for group in self.optimizer.param_groups:
                group["betas"] = (group["momentum"], *group["betas"][1:])


def _doc_of(rule: Any, value: str) -> str:
    return (rule.__doc__ or "").replace("the value", value)


def arguments_of(
    rule: Callable[Concatenate[AnyOptimizer, str, Arguments], Any],
) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, AnyOptimizer, Arguments], None]]:
    """Give a constructor the signature of a rule, for type checkers, ``help()`` and ``check``.

    ``param_name``, which a mixin sets, is left out.
    """
    parameters = {**inspect.signature(ParamScheduler.__init__).parameters, **inspect.signature(rule).parameters}
    shared = [parameters.pop(name).replace(kind=inspect.Parameter.KEYWORD_ONLY) for name in Schedule.__annotations__]
    own = [parameter for name, parameter in parameters.items() if name not in ("param_name", "schedule")]

    def declare(init: Callable[..., None]) -> Callable[..., None]:
        init.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
        return init

    return declare


@PARAM_SCHEDULERS.register_module()
class StepLR(LRSchedulerMixin, StepParamScheduler):
    @arguments_of(StepParamScheduler)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


@PARAM_SCHEDULERS.register_module()
class MultiStepLR(LRSchedulerMixin, MultiStepParamScheduler):
    @arguments_of(MultiStepParamScheduler)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


@PARAM_SCHEDULERS.register_module()
class ConstantLR(LRSchedulerMixin, ConstantParamScheduler):
    @arguments_of(ConstantParamScheduler)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


@PARAM_SCHEDULERS.register_module()
class ExponentialLR(LRSchedulerMixin, ExponentialParamScheduler):
    @arguments_of(ExponentialParamScheduler)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


@PARAM_SCHEDULERS.register_module()
class CosineAnnealingLR(LRSchedulerMixin, CosineAnnealingParamScheduler):
    @arguments_of(CosineAnnealingParamScheduler)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


@PARAM_SCHEDULERS.register_module()
class LinearLR(LRSchedulerMixin, LinearParamScheduler):
    @arguments_of(LinearParamScheduler)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


@PARAM_SCHEDULERS.register_module()
class PolyLR(LRSchedulerMixin, PolyParamScheduler):
    @arguments_of(PolyParamScheduler)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


@PARAM_SCHEDULERS.register_module()
class OneCycleLR(LRSchedulerMixin, OneCycleParamScheduler):
    @arguments_of(OneCycleParamScheduler)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


@PARAM_SCHEDULERS.register_module()
class CosineRestartLR(LRSchedulerMixin, CosineRestartParamScheduler):
    @arguments_of(CosineRestartParamScheduler)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


@PARAM_SCHEDULERS.register_module()
class ReduceOnPlateauLR(LRSchedulerMixin, ReduceOnPlateauParamScheduler):
    @arguments_of(ReduceOnPlateauParamScheduler)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


@PARAM_SCHEDULERS.register_module()
class StepMomentum(MomentumSchedulerMixin, StepParamScheduler):
    @arguments_of(StepParamScheduler)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


@PARAM_SCHEDULERS.register_module()
class MultiStepMomentum(MomentumSchedulerMixin, MultiStepParamScheduler):
    @arguments_of(MultiStepParamScheduler)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


@PARAM_SCHEDULERS.register_module()
class ConstantMomentum(MomentumSchedulerMixin, ConstantParamScheduler):
    @arguments_of(ConstantParamScheduler)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


@PARAM_SCHEDULERS.register_module()
class ExponentialMomentum(MomentumSchedulerMixin, ExponentialParamScheduler):
    @arguments_of(ExponentialParamScheduler)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


@PARAM_SCHEDULERS.register_module()
class CosineAnnealingMomentum(MomentumSchedulerMixin, CosineAnnealingParamScheduler):
    @arguments_of(CosineAnnealingParamScheduler)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


@PARAM_SCHEDULERS.register_module()
class LinearMomentum(MomentumSchedulerMixin, LinearParamScheduler):
    @arguments_of(LinearParamScheduler)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


@PARAM_SCHEDULERS.register_module()
class PolyMomentum(MomentumSchedulerMixin, PolyParamScheduler):
    @arguments_of(PolyParamScheduler)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


@PARAM_SCHEDULERS.register_module()
class CosineRestartMomentum(MomentumSchedulerMixin, CosineRestartParamScheduler):
    @arguments_of(CosineRestartParamScheduler)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


@PARAM_SCHEDULERS.register_module()
class ReduceOnPlateauMomentum(MomentumSchedulerMixin, ReduceOnPlateauParamScheduler):
    @arguments_of(ReduceOnPlateauParamScheduler)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


def build_param_scheduler(
    cfg: Any,
    optim_wrapper: AnyOptimWrapper,
    *,
    max_epochs: int | None = None,
    max_iters: int | None = None,
    epoch_length: int | None = None,
    path: str = "param_scheduler",
) -> Schedulers:
    """Build the schedulers of a run, in order; by wrapper name for an :class:`OptimWrapperDict`.

    With ``convert_to_iter_based=True``, a scheduler is configured in epochs but steps at each iteration. ``end``
    defaults to the end of the run.

    Args:
        cfg: a config, a scheduler, or a list of them. For an :class:`OptimWrapperDict`, a dict of these by wrapper
            name, or configs from which separate schedulers are built for each wrapper.
        optim_wrapper: the optimizer wrapper.
        max_epochs: epochs of the run.
        max_iters: iterations of the run.
        epoch_length: iterations per epoch.
        path: dotted path of ``cfg``, for messages.

    Raises:
        ConfigError: a config is invalid.
    """
    defaults = {True: max_epochs, False: max_iters}

    def build_list(configs: Any, wrapper: OptimWrapper, place: str) -> list[ParamScheduler]:
        several = isinstance(configs, list | tuple)
        items = {f"{place}.{index}": item for index, item in enumerate(configs)} if several else {place: configs}
        return [_build_scheduler(item, wrapper, defaults, epoch_length, where) for where, item in items.items()]

    if not isinstance(optim_wrapper, OptimWrapperDict):
        return build_list(cfg, optim_wrapper, path)
    wrappers = optim_wrapper.optim_wrappers
    if not isinstance(cfg, Mapping) or "type" in cfg:
        return {name: build_list(cfg, wrapper, path) for name, wrapper in wrappers.items()}
    if error := other_names(cfg, list(wrappers), path):
        raise error
    return {name: build_list(cfg[name], wrapper, f"{path}.{name}") for name, wrapper in wrappers.items()}


def other_names(cfg: Mapping[str, Any], names: Sequence[str], path: str = "param_scheduler") -> ConfigError | None:
    """Return the error for schedules by name whose names are not those of the optimizers, or None."""
    if set(cfg) == set(names):
        return None
    unknown = next((name for name in cfg if name not in names), None)
    message, hint = f"the names {sorted(cfg)} do not match the optimizers", ", ".join(names)
    if unknown is not None and (guess := did_you_mean(unknown, names)):
        hint = guess
    elif unknown is None:
        hint += "; an empty list stands for no schedule"
    return ConfigError(path, message, hint, origin_of(cfg, unknown) if unknown is not None else None)


def beyond_end(cfg: Mapping[str, Any], max_epochs: int | None, max_iters: int | None) -> tuple[str, str] | None:
    """Return the key and a message if a scheduler begins, or has all its milestones, after the end of the run."""
    by_epoch = cfg.get("by_epoch", True)
    last, unit = (max_epochs, "epochs") if by_epoch else (max_iters, "iterations")
    if last is None:
        return None
    begin = cfg.get("begin", 0)
    if isinstance(begin, int | float) and begin >= last:
        return "begin", f"it begins at {begin}, but the run ends after {last} {unit}"
    milestones = cfg.get("milestones")
    if isinstance(milestones, list | tuple) and milestones and all(begin + step >= last for step in milestones):
        return "milestones", f"all its milestones {list(milestones)} are after the end of the run at {last} {unit}"
    return None


def _build_scheduler(
    cfg: Any, wrapper: OptimWrapper, defaults: Mapping[bool, int | None], epoch_length: int | None, path: str
) -> ParamScheduler:
    if isinstance(cfg, ParamScheduler):
        return cfg
    if not isinstance(cfg, Mapping):
        raise ConfigError(path, f"expected a scheduler config, not {cfg!r}")
    if "type" not in cfg:
        raise missing_type(cfg, "parameter scheduler", path)
    by_epoch = cfg.get("by_epoch", True)
    runtime: dict[str, Any] = {"optimizer": wrapper}
    if defaults[bool(by_epoch)] is not None:
        runtime["end"] = defaults[bool(by_epoch)]
    if PARAM_SCHEDULER.read(cfg, "convert_to_iter_based"):
        with PARAM_SCHEDULERS.switch_scope(cfg.get("_scope_")) as registry:
            scheduler_class: Any = resolve(cfg["type"], registry, path=path, origin=origin_of(cfg, "type"))
        if not by_epoch:
            raise ConfigError(
                f"{path}.convert_to_iter_based", "by_epoch must be True, since settings in epochs are converted"
            )
        runtime["epoch_length"] = cfg.get("epoch_length", epoch_length)
        if not runtime["epoch_length"]:
            raise ConfigError(f"{path}.convert_to_iter_based", "unknown length of an epoch: set 'epoch_length'")
        cfg = {**cfg, "type": scheduler_class.build_iter_from_epoch}
    return PARAM_SCHEDULER.build(cfg, path=path, **runtime)  # type: ignore[no-any-return]
