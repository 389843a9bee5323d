"""Hooks: callbacks at fixed points of a run."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from trainwright.engine.errors import HookPointError, Origin, did_you_mean
from trainwright.engine.signatures import signature_of

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner

DataBatch = Any


class Priority(IntEnum):
    """The priority of a hook: at each hook point, lower numbers are called first."""

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
    """Return a priority as a number.

    Args:
        priority: a number from 0 to 100, or a name such as ``"VERY_LOW"`` in any case.

    Raises:
        ValueError: the number is out of range, or the name is unknown.
        TypeError: it is neither a number nor a name.
    """
    if isinstance(priority, str):
        if priority.upper() not in Priority.__members__:
            names = ", ".join(Priority.__members__)
            raise ValueError(f"unknown priority {priority!r}: use one of {names}, or a number from 0 to 100")
        return Priority[priority.upper()].value
    if not isinstance(priority, int):
        raise TypeError(f"a priority must be a number or a name, not {priority!r}")
    if not 0 <= priority <= 100:
        raise ValueError(f"a priority must be between 0 and 100, not {priority}")
    return int(priority)


class Hook:
    """Base class of all hooks.

    A subclass overrides the hook points that it needs; only overridden ones are called. ``_before_epoch``,
    ``_after_epoch``, ``_before_iter`` and ``_after_iter`` handle the points of all modes, with an argument ``mode``.

    If a hook has ``state_dict`` and ``load_state_dict``, its state is saved in every checkpoint under its ``name``. The
    name defaults to that of the class; a second hook of the same class must set another one.

    Raises:
        HookPointError: a subclass has a method whose name looks like a hook point but is unknown
            (``after_train_iteration``), or one that a run cannot call: other arguments, a coroutine, a generator.
    """

    priority: "int | str | Priority" = "NORMAL"
    name: str = ""

    exclusive: ClassVar[str | None] = None
    """What only one hook of a run may do, as a verb phrase; a second hook with the same text is rejected."""

    holds_memory: bool = False
    """Whether ``before_run`` or ``before_train`` copies weights or creates other large tensors, which
    ``trainwright estimate`` then counts by calling them."""

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
                hint = did_you_mean(name, cls.stages) or f"the hook points are {', '.join(cls.stages)}"
                hint += f"\nif a loop of yours calls it, first declare it: Hook.register_points({name!r})"
                message = "this is not a hook point, so it would never be called"
                raise HookPointError(f"{cls.__name__}.{name}", message, hint, _origin_of(member))
        mro = cls.__mro__
        for owner in mro[: mro.index(Hook)]:
            if owner is cls or not issubclass(owner, Hook):  # mixins; other hooks are checked when they are defined
                for name in (*Hook.stages, *_SHARED_POINTS):
                    if name in vars(owner) and hasattr(Hook, name):  # others are declared by their loop
                        _check_point(cls, name, vars(owner)[name])

    @staticmethod
    def register_points(*names: str) -> None:
        """Declare further hook points, which a loop calls with ``runner.call_hook(name, …)``.

        Call this before the hooks with these points are defined, and before the Runner is built.

        Raises:
            ValueError: a hook has another attribute of this name.
        """
        for name in names:
            if name not in Hook.stages:
                if not name.isidentifier() or hasattr(Hook, name):
                    reason = "taken" if hasattr(Hook, name) else "not a name"
                    raise ValueError(f"{name!r} cannot be a hook point: it is {reason}")
                Hook.stages = (*Hook.stages, name)

    def before_run(self, runner: "Runner") -> None:
        """Run once, after all parts of the run are built."""

    def after_run(self, runner: "Runner") -> None:
        """Run once at the end, also after an exception, when some parts may be missing."""

    def before_train(self, runner: "Runner") -> None:
        """Run before training."""

    def after_train(self, runner: "Runner") -> None:
        """Run after training."""

    def before_val(self, runner: "Runner") -> None:
        """Run before validation."""

    def after_val(self, runner: "Runner") -> None:
        """Run after validation."""

    def before_test(self, runner: "Runner") -> None:
        """Run before testing."""

    def after_test(self, runner: "Runner") -> None:
        """Run after testing."""

    def before_snapshot(self, runner: "Runner") -> None:
        """Run in every process before the state of the run is collected for a checkpoint; may change the state."""

    def before_save_checkpoint(self, runner: "Runner", checkpoint: dict[str, Any]) -> None:
        """Run with a checkpoint before it is written; may change it.

        Runs in every process, so that it may call collectives; rank 0 writes its checkpoint.
        """

    def after_load_checkpoint(self, runner: "Runner", checkpoint: dict[str, Any]) -> None:
        """Run with a checkpoint after it is read and before it is used; may change it."""

    def before_train_epoch(self, runner: "Runner") -> None:
        """Run before each epoch (once per run in an iteration-based loop)."""
        self._before_epoch(runner, mode="train")

    def before_val_epoch(self, runner: "Runner") -> None:
        """Run before the first batch of a validation."""
        self._before_epoch(runner, mode="val")

    def before_test_epoch(self, runner: "Runner") -> None:
        """Run before the first batch of a test."""
        self._before_epoch(runner, mode="test")

    def after_train_epoch(self, runner: "Runner") -> None:
        """Run after each epoch (once per run in an iteration-based loop), before the epoch is counted."""
        self._after_epoch(runner, mode="train")

    def after_val_epoch(self, runner: "Runner", metrics: dict[str, Any] | None = None) -> None:
        """Run after the last batch of a validation, with the metrics by ``prefix/name``."""
        self._after_epoch(runner, mode="val")

    def after_test_epoch(self, runner: "Runner", metrics: dict[str, Any] | None = None) -> None:
        """Run after the last batch of a test, with the metrics by ``prefix/name``."""
        self._after_epoch(runner, mode="test")

    def before_train_iter(self, runner: "Runner", batch_idx: int, data_batch: DataBatch = None) -> None:
        """Run before each training step."""
        self._before_iter(runner, batch_idx=batch_idx, data_batch=data_batch, mode="train")

    def before_val_iter(self, runner: "Runner", batch_idx: int, data_batch: DataBatch = None) -> None:
        """Run before each validation batch."""
        self._before_iter(runner, batch_idx=batch_idx, data_batch=data_batch, mode="val")

    def before_test_iter(self, runner: "Runner", batch_idx: int, data_batch: DataBatch = None) -> None:
        """Run before each test batch."""
        self._before_iter(runner, batch_idx=batch_idx, data_batch=data_batch, mode="test")

    def after_train_iter(
        self, runner: "Runner", batch_idx: int, data_batch: DataBatch = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Run after each training step with the outputs of ``train_step``, before the iteration is counted."""
        self._after_iter(runner, batch_idx=batch_idx, data_batch=data_batch, outputs=outputs, mode="train")

    def after_val_iter(
        self, runner: "Runner", batch_idx: int, data_batch: DataBatch = None, outputs: Sequence[Any] | None = None
    ) -> None:
        """Run after each validation batch, with the predictions."""
        self._after_iter(runner, batch_idx=batch_idx, data_batch=data_batch, outputs=outputs, mode="val")

    def after_test_iter(
        self, runner: "Runner", batch_idx: int, data_batch: DataBatch = None, outputs: Sequence[Any] | None = None
    ) -> None:
        """Run after each test batch, with the predictions."""
        self._after_iter(runner, batch_idx=batch_idx, data_batch=data_batch, outputs=outputs, mode="test")

    def _before_epoch(self, runner: "Runner", mode: str = "train") -> None:
        """Handle all three ``before_*_epoch``, depending on ``mode``."""

    def _after_epoch(self, runner: "Runner", mode: str = "train") -> None:
        """Handle all three ``after_*_epoch``, depending on ``mode``."""

    def _before_iter(self, runner: "Runner", batch_idx: int, data_batch: DataBatch = None, mode: str = "train") -> None:
        """Handle all three ``before_*_iter``, depending on ``mode``."""

    def _after_iter(
        self, runner: "Runner", batch_idx: int, data_batch: DataBatch = None, outputs: Any = None, mode: str = "train"
    ) -> None:
        """Handle all three ``after_*_iter``, depending on ``mode``."""

    def extra_modules(self) -> Iterable[nn.Module]:
        """Return further modules with weights that this hook keeps, such as an average of the model."""
        return ()

    def save_stopped(self, runner: "Runner", meta: Mapping[str, Any]) -> bool:
        """Save a stopped run, if this hook saves checkpoints.

        Args:
            runner: the run, between two iterations.
            meta: additional entries for the checkpoint's ``meta``.

        Returns:
            Whether a resumable checkpoint was written and recorded as the newest.
        """
        return False

    def every_n_epochs(self, runner: "Runner", n: int, start: int = 0) -> bool:
        """Return whether the current epoch is the n-th, 2n-th, … after ``start``; never for ``n <= 0``."""
        done = runner.epoch + 1 - start
        return n > 0 and done >= 0 and done % n == 0

    def every_n_train_iters(self, runner: "Runner", n: int, start: int = 0) -> bool:
        """Return whether the current training iteration is the n-th, 2n-th, … after ``start``; never for ``n <= 0``."""
        done = runner.iter + 1 - start
        return n > 0 and done >= 0 and done % n == 0

    def every_n_inner_iters(self, batch_idx: int, n: int) -> bool:
        """Return whether ``batch_idx`` is the n-th, 2n-th, … batch of its epoch; never for ``n <= 0``."""
        return n > 0 and (batch_idx + 1) % n == 0

    def end_of_epoch(self, dataloader: Any, batch_idx: int) -> bool:
        """Return whether this is the last batch of ``dataloader``."""
        return batch_idx + 1 == len(dataloader)

    def is_last_train_epoch(self, runner: "Runner") -> bool:
        """Return whether the current epoch is the last."""
        return runner.epoch + 1 == runner.max_epochs

    def is_last_train_iter(self, runner: "Runner") -> bool:
        """Return whether the current training iteration is the last."""
        return runner.iter + 1 == runner.max_iters

    def get_triggered_stages(self) -> list[str]:
        """Return the hook points that this hook overrides, in the order of :attr:`stages`."""
        return [stage for stage in Hook.stages if _overrides(type(self), stage)]


def has_state(hook_class: Any) -> bool:
    """Return whether the state of a hook class is saved in checkpoints."""
    return hasattr(hook_class, "state_dict") and hasattr(hook_class, "load_state_dict")


_SHARED_POINTS = ("_before_epoch", "_after_epoch", "_before_iter", "_after_iter")


def _check_point(hook: type[Hook], name: str, member: Any) -> None:
    """Raise a ``HookPointError`` if a run cannot call this method."""
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
        problem = "its body would never run, because coroutines and generators are only called, not awaited or iterated"
    elif (signature := signature_of(point)) is not None:
        _, runner, *others = expected.parameters
        try:
            signature.bind(runner, **dict.fromkeys(others))
        except TypeError as error:
            call = ", ".join([runner, *(f"{other}=…" for other in others)])
            problem = f"called as {name}({call}), but its signature is {signature}: {error}"
    if problem:
        raise HookPointError(f"{hook.__name__}.{name}", problem, f"write def {name}{written}", _origin_of(member))


def _origin_of(member: Any) -> Origin | None:
    code = getattr(inspect.unwrap(getattr(member, "__func__", member)), "__code__", None)
    return Origin(code.co_filename, code.co_firstlineno) if code else None


def _overrides(hook: type[Hook], stage: str) -> bool:
    if not hasattr(Hook, stage):
        return hasattr(hook, stage)
    when, *_, what = stage.split("_")
    names = {stage, f"_{when}_{what}"}.intersection((stage, *_SHARED_POINTS))
    return any(getattr(hook, name) is not getattr(Hook, name) for name in names)
