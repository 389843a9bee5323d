"""Hooks: what happens around a step."""

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from types import MethodType
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from trainwright.engine.building import origin_of
from trainwright.engine.errors import ConfigError, HookPointError, Origin, did_you_mean
from trainwright.engine.parts import DEFAULT_HOOKS
from trainwright.engine.signatures import signature_of

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner

DataBatch = Any


class Priority(IntEnum):
    """When a hook is called among the others at the same point: lower numbers first."""

    HIGHEST = 0
    VERY_HIGH = 10
    HIGH = 30
    ABOVE_NORMAL = 40
    NORMAL = 50
    BELOW_NORMAL = 60
    LOW = 70
    VERY_LOW = 90
    LOWEST = 100


def get_priority(priority: "int | str | Priority") -> int:
    """Returns a priority as a number.

    Args:
        priority: a number from 0 to 100, or a name such as ``"VERY_LOW"`` in any case.

    Raises:
        ValueError: the number is out of range, or no priority has this name.
        TypeError: neither a number nor a name.
    """
    if isinstance(priority, str):
        if priority.upper() not in Priority.__members__:
            raise ValueError(f"no priority {priority!r}: {', '.join(Priority.__members__)}, or a number from 0 to 100")
        return Priority[priority.upper()].value
    if not isinstance(priority, int):
        raise TypeError(f"a priority is a number or a name, not {priority!r}")
    if not 0 <= priority <= 100:
        raise ValueError(f"a priority lies between 0 and 100, not at {priority}")
    return int(priority)


class Hook:
    """Base of everything that acts at points of a run.

    A subclass overrides the points that it needs; only overridden ones are called. A hook with ``state_dict`` and
    ``load_state_dict`` has its state in every checkpoint, under its ``name``: that of its class, unless the config (or
    whoever makes it) gives another one, which every further hook of the same class needs.

    Each point may also be handled for all modes at once, in ``_before_epoch``, ``_after_epoch``, ``_before_iter`` or
    ``_after_iter`` with an argument ``mode``.

    Raises:
        HookPointError: a subclass has a public method that looks like a point and is none (``after_train_iteration``),
            or a point that a run cannot call: other arguments, a coroutine, a generator.
    """

    priority: "int | str | Priority" = "NORMAL"
    name: str = ""

    exclusive: ClassVar[str | None] = None
    """What only one hook of a run may do, in words; a second hook with the same words is refused."""

    stages: ClassVar[tuple[str, ...]] = (
        "before_run", "after_load_checkpoint", "before_train", "before_train_epoch", "before_train_iter",
        "after_train_iter", "after_train_epoch", "before_val", "before_val_epoch", "before_val_iter", "after_val_iter",
        "after_val_epoch", "after_val", "before_snapshot", "before_save_checkpoint", "after_train", "before_test",
        "before_test_epoch", "before_test_iter", "after_test_iter", "after_test_epoch", "after_test", "after_run",
    )  # fmt: skip

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, member in vars(cls).items():
            if name.startswith(("before_", "after_")) and name not in cls.stages and callable(member):
                hint = did_you_mean(name, cls.stages) or f"the points are {', '.join(cls.stages)}"
                message = "this is no point of a run, it would never be called"
                raise HookPointError(f"{cls.__name__}.{name}", message, hint, _origin_of(member))
        mro = cls.__mro__
        for owner in mro[: mro.index(Hook)]:
            if owner is cls or not issubclass(owner, Hook):  # other hooks have been checked, mixins have not
                for name in (*Hook.stages, *_SHARED.values()):
                    if name in vars(owner):
                        _check_point(cls, name, vars(owner)[name])

    def before_run(self, runner: "Runner") -> None:
        """Called once, when everything is built."""

    def after_run(self, runner: "Runner") -> None:
        """Called once at the end, also after an exception; then some parts may be missing."""

    def before_train(self, runner: "Runner") -> None:
        """Called before the first epoch."""

    def after_train(self, runner: "Runner") -> None:
        """Called after the last epoch."""

    def before_val(self, runner: "Runner") -> None:
        """Called before a validation."""

    def after_val(self, runner: "Runner") -> None:
        """Called after a validation."""

    def before_test(self, runner: "Runner") -> None:
        """Called before a test."""

    def after_test(self, runner: "Runner") -> None:
        """Called after a test."""

    def before_snapshot(self, runner: "Runner") -> None:
        """Called in every process before the state of the run is collected for a checkpoint; may still change it."""

    def before_save_checkpoint(self, runner: "Runner", checkpoint: dict[str, Any]) -> None:
        """Called with the checkpoint that is about to be written; may change it."""

    def after_load_checkpoint(self, runner: "Runner", checkpoint: dict[str, Any]) -> None:
        """Called with a checkpoint that was read, before it is used; may change it."""

    def before_train_epoch(self, runner: "Runner") -> None:
        """Called before each epoch (once a run, in a loop by iterations)."""
        self._before_epoch(runner, mode="train")

    def before_val_epoch(self, runner: "Runner") -> None:
        """Called before the batches of a validation."""
        self._before_epoch(runner, mode="val")

    def before_test_epoch(self, runner: "Runner") -> None:
        """Called before the batches of a test."""
        self._before_epoch(runner, mode="test")

    def after_train_epoch(self, runner: "Runner") -> None:
        """Called after each epoch (once a run, in a loop by iterations), before the counter is raised."""
        self._after_epoch(runner, mode="train")

    def after_val_epoch(self, runner: "Runner", metrics: dict[str, Any] | None = None) -> None:
        """Called after the batches of a validation, with the results by ``prefix/name``."""
        self._after_epoch(runner, mode="val")

    def after_test_epoch(self, runner: "Runner", metrics: dict[str, Any] | None = None) -> None:
        """Called after the batches of a test, with the results by ``prefix/name``."""
        self._after_epoch(runner, mode="test")

    def before_train_iter(self, runner: "Runner", batch_idx: int, data_batch: DataBatch = None) -> None:
        """Called before each training step."""
        self._before_iter(runner, batch_idx=batch_idx, data_batch=data_batch, mode="train")

    def before_val_iter(self, runner: "Runner", batch_idx: int, data_batch: DataBatch = None) -> None:
        """Called before each batch of a validation."""
        self._before_iter(runner, batch_idx=batch_idx, data_batch=data_batch, mode="val")

    def before_test_iter(self, runner: "Runner", batch_idx: int, data_batch: DataBatch = None) -> None:
        """Called before each batch of a test."""
        self._before_iter(runner, batch_idx=batch_idx, data_batch=data_batch, mode="test")

    def after_train_iter(
        self,
        runner: "Runner",
        batch_idx: int,
        data_batch: DataBatch = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Called after each training step, with what ``train_step`` returned, before the counter is raised."""
        self._after_iter(runner, batch_idx=batch_idx, data_batch=data_batch, outputs=outputs, mode="train")

    def after_val_iter(
        self,
        runner: "Runner",
        batch_idx: int,
        data_batch: DataBatch = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Called after each batch of a validation, with the predictions."""
        self._after_iter(runner, batch_idx=batch_idx, data_batch=data_batch, outputs=outputs, mode="val")

    def after_test_iter(
        self,
        runner: "Runner",
        batch_idx: int,
        data_batch: DataBatch = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Called after each batch of a test, with the predictions."""
        self._after_iter(runner, batch_idx=batch_idx, data_batch=data_batch, outputs=outputs, mode="test")

    def _before_epoch(self, runner: "Runner", mode: str = "train") -> None:
        """All three ``before_*_epoch`` in one."""

    def _after_epoch(self, runner: "Runner", mode: str = "train") -> None:
        """All three ``after_*_epoch`` in one."""

    def _before_iter(self, runner: "Runner", batch_idx: int, data_batch: DataBatch = None, mode: str = "train") -> None:
        """All three ``before_*_iter`` in one."""

    def _after_iter(
        self,
        runner: "Runner",
        batch_idx: int,
        data_batch: DataBatch = None,
        outputs: Any = None,
        mode: str = "train",
    ) -> None:
        """All three ``after_*_iter`` in one."""

    def extra_modules(self) -> Iterable[nn.Module]:
        """Return modules whose weights this hook keeps beside those of the model, such as an average."""
        return ()

    def save_stopped(self, runner: "Runner", meta: Mapping[str, Any]) -> bool:
        """Save a run that was stopped, if this hook saves checkpoints.

        Args:
            runner: the run, between two iterations.
            meta: further entries of the checkpoint's ``meta``.

        Returns:
            Whether a checkpoint was written that can be resumed, and noted as the newest.
        """
        return False

    def every_n_epochs(self, runner: "Runner", n: int, start: int = 0) -> bool:
        """Whether the epoch in progress is the n-th, 2n-th, … after ``start``; never for ``n <= 0``."""
        done = runner.epoch + 1 - start
        return n > 0 and done >= 0 and done % n == 0

    def every_n_train_iters(self, runner: "Runner", n: int, start: int = 0) -> bool:
        """Whether the training iteration in progress is the n-th, 2n-th, … after ``start``; never for ``n <= 0``."""
        done = runner.iter + 1 - start
        return n > 0 and done >= 0 and done % n == 0

    def every_n_inner_iters(self, batch_idx: int, n: int) -> bool:
        """Whether ``batch_idx`` is the n-th, 2n-th, … batch of its epoch; never for ``n <= 0``."""
        return n > 0 and (batch_idx + 1) % n == 0

    def end_of_epoch(self, dataloader: Any, batch_idx: int) -> bool:
        """Whether this is the last batch of ``dataloader``."""
        return batch_idx + 1 == len(dataloader)

    def is_last_train_epoch(self, runner: "Runner") -> bool:
        """Whether the epoch in progress is the last."""
        return runner.epoch + 1 == runner.max_epochs

    def is_last_train_iter(self, runner: "Runner") -> bool:
        """Whether the training iteration in progress is the last."""
        return runner.iter + 1 == runner.max_iters

    def get_triggered_stages(self) -> list[str]:
        """Returns the points that this hook acts at, in the order of :attr:`stages`."""
        return [stage for stage in Hook.stages if _overrides(type(self), stage)]


def has_state(hook_class: Any) -> bool:
    """Return whether hooks of a class are part of checkpoints."""
    return hasattr(hook_class, "state_dict") and hasattr(hook_class, "load_state_dict")


def same_name(name: str, path: str, other: str, origin: Origin | None = None) -> ConfigError:
    """Return the mistake of a hook whose state would be mixed up with that of another.

    Args:
        name: the name that both have.
        path: dotted path of the second hook.
        other: dotted path of the first one.
        origin: where the second one is configured.
    """
    message = f"a second hook named {name!r}{f' (the first is {other})' if other else ''}, and both have state"
    return ConfigError(
        path,
        message,
        "a checkpoint tells them apart by name: give this one name='...' (an object has an attribute)",
        origin,
    )


_SHARED = {"before_*_epoch": "_before_epoch", "after_*_epoch": "_after_epoch", "before_*_iter": "_before_iter",
           "after_*_iter": "_after_iter"}  # fmt: skip


def _check_point(hook: type[Hook], name: str, member: Any) -> None:
    """Raises a HookPointError for a method that a run cannot call at this point."""
    if isinstance(member, property):  # its value is known only at run time
        return
    point = member.__get__(Hook(), hook) if hasattr(member, "__get__") else member
    expected = inspect.signature(getattr(Hook, name))
    parameters = [parameter.replace(annotation=parameter.empty) for parameter in expected.parameters.values()]
    written = expected.replace(parameters=parameters, return_annotation=expected.empty)
    problem = ""
    if not callable(point):
        problem = "this is not a method"
    elif inspect.iscoroutinefunction(point) or inspect.isasyncgenfunction(point) or inspect.isgeneratorfunction(point):
        problem = "its body would never run: a run calls it and awaits or iterates over nothing"
    elif (signature := signature_of(point)) is not None:
        _, runner, *others = expected.parameters
        try:
            signature.bind(runner, **dict.fromkeys(others))
        except TypeError as error:
            call = ", ".join([runner, *(f"{other}=…" for other in others)])
            problem = f"called as {name}({call}), but takes {signature}: {error}"
    if problem:
        raise HookPointError(f"{hook.__name__}.{name}", problem, f"write def {name}{written}", _origin_of(member))


def _origin_of(member: Any) -> Origin | None:
    code = getattr(inspect.unwrap(getattr(member, "__func__", member)), "__code__", None)
    return Origin(code.co_filename, code.co_firstlineno) if code else None


def _overrides(hook: type[Hook], stage: str) -> bool:
    names = [stage]
    when, *middle, what = stage.split("_")
    if middle and f"{when}_*_{what}" in _SHARED and getattr(hook, stage) is getattr(Hook, stage):
        names.append(_SHARED[f"{when}_*_{what}"])
    return any(getattr(hook, name) is not getattr(Hook, name) for name in names)


def unknown_default_hooks(default_hooks: Mapping[str, Any]) -> dict[str, ConfigError]:
    """Return the mistakes in ``default_hooks``, by name: an entry without ``type`` that no default hook is called."""
    return {
        name: ConfigError(
            f"default_hooks.{name}",
            "no default hook has this name",
            did_you_mean(name, DEFAULT_HOOKS) or f"they are {', '.join(DEFAULT_HOOKS)}",
            origin_of(default_hooks, name),
        )
        for name, hook in default_hooks.items()
        if isinstance(hook, Mapping) and "type" not in hook and name not in DEFAULT_HOOKS
    }


def configured_hooks(
    default_hooks: Mapping[str, Any], custom_hooks: Sequence[Any]
) -> Iterator[tuple[str, "Hook | Mapping[str, Any]"]]:
    """Yields the hooks of a run, or their configs, each with its path in the config.

    Args:
        default_hooks: changes to :data:`DEFAULT_HOOKS` by name: a hook, a config (without ``type`` too), or None.
        custom_hooks: further ones.

    Raises:
        ConfigError: an entry without ``type`` has a name that no default hook has.
    """
    for mistake in unknown_default_hooks(default_hooks).values():
        raise mistake
    for name, hook in {**DEFAULT_HOOKS, **default_hooks}.items():
        if isinstance(hook, Mapping) and "type" not in hook:
            given: Any = hook
            hook = copy.copy(given)  # a copy has the origins, unlike a new dict
            for key, value in DEFAULT_HOOKS[name].items():
                hook.setdefault(key, value)
        if hook is not None:
            yield f"default_hooks.{name}", hook
    for index, hook in enumerate(custom_hooks):
        yield f"custom_hooks.{index}", hook


def excluded(path: str, hook: type[Hook], other: type[Hook]) -> ConfigError:
    """Return the error for two hooks of which a run can have only one.

    Args:
        path: dotted path of the second one in the config.
        hook: its class.
        other: class of the first one.
    """
    message = f"{hook.__name__} cannot join {other.__name__}: only one hook of a run {hook.exclusive}"
    return ConfigError(path or "custom_hooks", message, "remove one of them")


class _Points(dict[str, list[Callable[..., None]]]):
    def __missing__(self, stage: str) -> list[Callable[..., None]]:
        raise ValueError(f"no point {stage!r}: {did_you_mean(stage, Hook.stages) or ', '.join(Hook.stages)}")


class HookList:
    """The hooks of a run, in order of priority, and under ``calls`` for each point the methods to call, in order."""

    def __init__(self) -> None:
        self.hooks: list[Hook] = []
        self._paths: dict[str, str] = {}
        self._stages: list[set[str]] = []
        self.calls: dict[str, list[Callable[..., None]]] = _Points((stage, []) for stage in Hook.stages)

    def add(self, hook: Hook, path: str = "") -> None:
        """Inserts a hook behind those of the same or a lower priority number.

        Raises:
            ConfigError: it excludes one that is there already, or has state and the same name as one that has, too.
        """
        for other in self.hooks:
            if hook.exclusive is not None and hook.exclusive == other.exclusive:
                raise excluded(path, type(hook), type(other))
        hook.name = hook.name or type(hook).__name__
        if has_state(type(hook)):
            if hook.name in self._paths:
                raise same_name(hook.name, path or type(hook).__name__, self._paths[hook.name])
            self._paths[hook.name] = path
        priority = get_priority(hook.priority)
        position = sum(get_priority(other.priority) <= priority for other in self.hooks)
        self.hooks.insert(position, hook)
        self._stages.insert(position, set(hook.get_triggered_stages()))
        for stage in self._stages[position]:
            acting = (hook for hook, stages in zip(self.hooks, self._stages) if stage in stages)
            self.calls[stage] = [_bound(hook, stage) for hook in acting]

    def table(self) -> str:
        """Returns, for the log, each point with the hooks that act there, in order."""
        lines = []
        for stage, calls in self.calls.items():
            if calls:
                hooks = [call.__self__ for call in calls]  # type: ignore[attr-defined]
                lines.append(f"{stage}:")
                lines += [f"  ({_priority_name(hook.priority):<12}) {type(hook).__name__}" for hook in hooks]
        return "\n".join(lines)


def _bound(hook: Hook, stage: str) -> Callable[..., None]:
    """Returns the method for a point, bound to its hook also if it is static or a class's: messages name the hook."""
    call: Callable[..., None] = getattr(hook, stage)
    if getattr(call, "__self__", None) is hook:
        return call
    return MethodType(lambda _, *args, **kwargs: call(*args, **kwargs), hook)


def _priority_name(priority: "int | str | Priority") -> str:
    number = get_priority(priority)
    return Priority(number).name if number in Priority._value2member_map_ else str(number)
