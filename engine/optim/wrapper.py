"""The wrapper around an optimizer: gradient accumulation, clipping, and resumable state."""

import inspect
from abc import ABCMeta
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from trainwright.engine.errors import CheckpointError, did_you_mean
from trainwright.engine.optim.state_layout import (
    FROM_WEIGHTS,
    changed_implementation,
    fit_layout,
    fit_settings,
    fit_storage,
    in_own_order,
    kept_settings,
    positions,
    refuse_other_class,
)
from trainwright.engine.optim.window import AccumulationWindow
from trainwright.engine.records.logger import get_logger
from trainwright.engine.records.message_hub import MessageHub
from trainwright.engine.registry import OPTIM_WRAPPERS
from trainwright.engine.strategy import shards

NO_CONTEXT: AbstractContextManager[None] = nullcontext()
_CLIP_FUNCTIONS = {"norm": torch.nn.utils.clip_grad_norm_, "value": torch.nn.utils.clip_grad_value_}
_CLIP_SHARDED = {"norm": shards.clip_grad_norm_, "value": shards.clip_grad_value_}


def _in_window(name: str) -> Any:
    """Return a property that forwards to an attribute of the accumulation window."""
    return property(
        lambda wrapper: getattr(wrapper._window, name), lambda wrapper, value: setattr(wrapper._window, name, value)
    )


@OPTIM_WRAPPERS.register_module()
class OptimWrapper(metaclass=ABCMeta):  # noqa: B024  # OptimWrapperDict is registered as a subclass
    """A wrapper that turns losses into parameter updates: backward, accumulation, clipping and step.

    With ``accumulative_counts=n``, the gradients of ``n`` iterations (a *window*) are averaged into one update: each
    loss is divided by ``n``, or by the number of iterations in the last, shorter window of a run.

    With several parameter groups, :attr:`param_groups` has an extra entry without model parameters,
    ``base_param_settings``, which shows the effect of the schedulers on the optimizer's default settings.

    For an optimizer whose step needs a closure (``LBFGS``), pass ``step_kwargs=dict(closure=...)``.

    Args:
        optimizer: the optimizer.
        accumulative_counts: iterations per window, at least 1.
        clip_grad: arguments of :func:`torch.nn.utils.clip_grad_norm_`, or with ``type="value"`` of
            :func:`torch.nn.utils.clip_grad_value_`. The norm before clipping is logged as ``train/grad_norm``.

    Raises:
        ValueError: ``accumulative_counts`` is below 1, or ``clip_grad`` has wrong arguments.
    """

    def __init__(
        self, optimizer: Optimizer, accumulative_counts: int = 1, clip_grad: Mapping[str, Any] | None = None
    ) -> None:
        self.optimizer = optimizer
        self.clip_grad_kwargs: dict[str, Any] = {}
        if clip_grad is not None:
            self.clip_grad_kwargs = dict(clip_grad)
            clip_type = self.clip_grad_kwargs.pop("type", "norm")
            if clip_type not in _CLIP_FUNCTIONS:
                raise ValueError(f"the type of clip_grad must be 'norm' or 'value', not {clip_type!r}")
            is_sharded = any(shards.is_sharded(param) for param in self._params())
            self.clip_func: Any = (_CLIP_SHARDED if is_sharded else _CLIP_FUNCTIONS)[clip_type]
            self.grad_name = f"grad_{clip_type}"
            _check_clip_arguments(self.clip_func, self.clip_grad_kwargs)
        self.base_param_settings: dict[str, Any] | None = None
        if len(optimizer.param_groups) > 1:
            self.base_param_settings = {"params": torch.zeros(1), **optimizer.defaults}
        # For each parameter of the optimizer, its position in module order. None if the order is the same.
        self.param_order: list[int] | None = None
        self.param_names: list[str] | None = None  # in module order, if known

        self._window = AccumulationWindow(_checked_counts(accumulative_counts))
        self._window_is_restored = False
        self.exchange_gradients: Callable[[Iterable[Tensor]], None] | None = None
        """Called with the parameters before an update, if several processes average gradients at this point only."""
        self.checks_of_gradients = 0
        """Number of further windows that are expected to begin without gradients, as a warning checks."""
        closure = inspect.signature(type(optimizer).step).parameters.get("closure")
        self._needs_closure = closure is not None and closure.default is inspect.Parameter.empty
        # Equivalent to PyTorch's zero_grad, but about 20 µs faster (no profiler range).
        self._clears_directly = getattr(type(optimizer), "zero_grad", None) is Optimizer.zero_grad

    @property
    def accumulative_counts(self) -> int:
        """Iterations per window. A change within a window takes effect when that window ends."""
        return self._window.size

    @accumulative_counts.setter
    def accumulative_counts(self, counts: int) -> None:
        self._window.resize(_checked_counts(counts))

    @property
    def inner_count(self) -> int:
        """Number of losses propagated back."""
        return self._window.done

    @property
    def num_waiting(self) -> int:
        """Number of losses that are waiting for their update."""
        return 0 if self._window.is_complete else self._window.gathered

    @property
    def optim_wrappers(self) -> Mapping[str, "OptimWrapper"]:
        """This wrapper under an empty name, for code that also handles :class:`OptimWrapperDict`."""
        return {"": self}

    @property
    def message_hub(self) -> MessageHub:
        """The message hub of the current run."""
        return MessageHub.get_current_instance()

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The optimizer's parameter groups, plus ``base_param_settings`` if there are several."""
        if self.base_param_settings is None:
            return self.optimizer.param_groups
        return [*self.optimizer.param_groups, self.base_param_settings]

    @property
    def defaults(self) -> dict[str, Any]:
        """The optimizer's default settings."""
        return self.optimizer.defaults

    def update_params(
        self, loss: Tensor, step_kwargs: dict[str, Any] | None = None, zero_kwargs: dict[str, Any] | None = None
    ) -> None:
        """Propagate a loss back and, at the end of a window, update the parameters and clear their gradients.

        Args:
            loss: scalar loss of this iteration.
            step_kwargs: arguments of :meth:`step`.
            zero_kwargs: arguments of :meth:`zero_grad`.
        """
        if self.checks_of_gradients and not zero_kwargs:  # which may keep zeros
            self._check_gradients()
        self.backward(loss if self._window.size == 1 else self.scale_loss(loss))
        self.finish_update(step_kwargs, zero_kwargs)

    def finish_update(
        self, step_kwargs: dict[str, Any] | None = None, zero_kwargs: dict[str, Any] | None = None
    ) -> None:
        """Do the part of :meth:`update_params` that follows :meth:`backward`."""
        window = self._window
        if window.size == 1 or self.should_update():
            self.step(**step_kwargs) if step_kwargs else self.step()
            self.zero_grad(**zero_kwargs) if zero_kwargs else self.zero_grad()
            if window.next_size is not None:
                window.resize(window.next_size)

    def _check_gradients(self) -> None:
        if not self._window.is_complete:
            return
        self.checks_of_gradients -= 1
        if any(param.grad is not None for param in self._params()):
            self.checks_of_gradients = 0
            names = f", such as {self.param_names[0]}," if self.param_names else ""
            get_logger().warning(
                "the parameters of an optimizer%s have gradients of another loss, which its next update will include, "
                "and which are not part of checkpoints: set requires_grad to False where that loss is computed, or "
                "call zero_grad before",
                names,
            )

    def accumulate(self, loss: Tensor) -> None:
        """Propagate back a partial scalar loss of an iteration; pass the last part to :meth:`update_params`."""
        self.scale_loss(loss).backward()  # type: ignore[no-untyped-call]

    def scale_loss(self, loss: Tensor) -> Tensor:
        """Return the loss divided by the number of iterations in its window."""
        return loss if self._window.size == 1 else loss / self._window.divisor

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Propagate a scalar loss back and count it. An override must increment ``_inner_count``."""
        loss.backward(**kwargs)  # type: ignore[no-untyped-call]
        self._window.done += 1

    def step(self, **kwargs: Any) -> None:
        """Clip the gradients if configured, and call the optimizer's ``step``.

        Raises:
            ValueError: the optimizer requires a ``closure``.
        """
        if self._needs_closure and "closure" not in kwargs:
            raise ValueError(
                f"{type(self.optimizer).__name__} evaluates the loss several times per step: pass "
                "step_kwargs=dict(closure=...) to update_params, or use another optimizer"
            )
        self._exchange()
        if self.clip_grad_kwargs:
            self._clip_grad()
        self.optimizer.step(**kwargs)

    def _exchange(self) -> None:
        if self.exchange_gradients is None:
            return
        try:
            self.exchange_gradients(self._params())
        except RuntimeError:  # of another rank: the loss has not changed any weights
            if self._window.size == 1:
                self._window.done -= 1
            raise

    def zero_grad(self, **kwargs: Any) -> None:
        """Clear the gradients, like :meth:`torch.optim.Optimizer.zero_grad`."""
        if kwargs or not self._clears_directly:
            self.optimizer.zero_grad(**kwargs)
            return
        for group in self.optimizer.param_groups:
            for param in group["params"]:
                param.grad = None

    def optim_context(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Return a context for forward and backward; within a window, ``no_sync`` of the model, if it has one.

        A sharded model is told instead whether to exchange the gradients of the next backward passes.
        """
        syncs = self.should_sync()
        set_sync: Any = getattr(model, "set_requires_gradient_sync", None) if self._window.size > 1 else None
        if set_sync is not None:
            set_sync(syncs)
            return NO_CONTEXT
        if syncs:
            return NO_CONTEXT
        no_sync: Any = getattr(model, "no_sync", nullcontext)
        return no_sync()  # type: ignore[no-any-return]

    def should_update(self) -> bool:
        """Return whether a window has just ended (or none has started)."""
        return self._window.is_complete

    def should_sync(self) -> bool:
        """Return whether the next loss ends a window, so that gradients must be synchronized."""
        return self._window.size == 1 or self._window.ends_with_next

    def has_completed(self, losses: int) -> bool:
        """Return whether exactly ``losses`` losses were propagated back and none is waiting for its update.

        If so before a failed iteration, it has not changed any weights, and no accumulated gradients are lost.
        """
        return self._window.done == losses and self._window.is_complete

    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        """Set the start and end counts of a run, so that its last, shorter window triggers an update.

        Counts restored by :meth:`load_state_dict` are kept.

        Args:
            model: the model in training.
            init_counts: number of losses propagated back so far.
            max_counts: number of losses at the end of the run.
        """
        window = self._window
        if window.done != init_counts and not self._window_is_restored:
            if init_counts % window.size:
                get_logger().warning(
                    "resumed within an accumulation window without its gradients: restarting the window"
                )
            window.move_to(init_counts)
        elif window.is_complete:
            window.move_to(window.done)
        self._window_is_restored = False
        length = window.divisor
        window.last = max_counts
        if window.divisor != length and not window.is_complete:
            self._rescale_accumulated(length, window.divisor)
        if window.size > 1 and any(isinstance(module, _BatchNorm) for module in model.modules()):
            get_logger().info(
                "gradient accumulation: batch normalization uses the statistics of single batches, not of windows"
            )

    def shift_counts(self, by: int) -> None:
        """Add ``by`` to the counts after iterations were renumbered; the current window does not change."""
        self._window.shift(by)

    def get_lr(self) -> dict[str, list[float]]:
        """Return ``lr`` of each group, and ``base_lr`` if there are several groups."""
        rates: dict[str, list[float]] = {}
        if self.base_param_settings is not None:
            rates["base_lr"] = [self.base_param_settings["lr"]]
        rates["lr"] = [group["lr"] for group in self.optimizer.param_groups]
        return rates

    def get_momentum(self) -> dict[str, list[float]]:
        """Return the momentum of each group: ``betas[0]`` for the Adam family, 0 without momentum."""
        return {"momentum": [_momentum_of(group) for group in self.optimizer.param_groups]}

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's state, and in addition:

        - ``class_name``: the optimizer's class;
        - ``base_param_settings``, if there are several groups;
        - ``param_order``, if groups were merged: the position of each parameter in module order;
        - ``param_names``, if known, in module order;
        - ``accumulation``: the counts, and within a window its ``counts``, its ``length`` (shorter at the end of
          a run) and ``grads``, the gradients that this rank has accumulated, by parameter index. (A checkpoint of
          several processes has those of all ranks: see :mod:`trainwright.engine.ranks.state`.)
        """
        state: dict[str, Any] = self.optimizer.state_dict()
        state["class_name"] = type(self.optimizer).__name__
        if self.base_param_settings is not None:
            state["base_param_settings"] = dict(self.base_param_settings)
        if self.param_order is not None:
            state["param_order"] = list(self.param_order)
        if self.param_names is not None:
            state["param_names"] = list(self.param_names)
        accumulation: dict[str, Any] = self._window.state_dict()
        if not self._window.is_complete:
            accumulation["grads"] = {
                index: param.grad for index, param in enumerate(self._params()) if param.grad is not None
            }
        state["accumulation"] = accumulation
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore a state of this class or of MMEngine's wrapper.

        Settings in the state override those of the config, with a warning, except for those that only choose an
        implementation (``fused``, ``foreach``, ``capturable``, ``differentiable``). A changed
        ``accumulative_counts`` takes effect after the current window.

        Raises:
            CheckpointError: the state belongs to an optimizer of another class or to other parameters.
        """
        state = dict(state_dict)
        if "param_groups" not in state:
            raise CheckpointError(
                f"the checkpoint contains several optimizers ({', '.join(map(str, state))}) but this run has one: "
                f"resume with the original optim_wrapper, or {FROM_WEIGHTS}"
            )
        base_param_settings = state.pop("base_param_settings", None)
        accumulation = state.pop("accumulation", None)
        saved_order = in_own_order(state.pop("param_order", None), state.pop("param_names", None), self.param_names)
        saved_scale = (state.pop("loss_scaler", None) or {}).get("scale", 1.0)
        refuse_other_class(state.pop("class_name", None), state["param_groups"], self.optimizer)
        if base_param_settings is None and len(state["param_groups"]) == 1:
            base_param_settings = {key: value for key, value in state["param_groups"][0].items() if key != "params"}
        configured = [dict(group) for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(fit_layout(state, saved_order, self.optimizer, self.param_order))
        fit_storage(self.optimizer)
        if changed := changed_implementation(state["param_groups"][0], configured[0]):
            get_logger().info("optimizer: implementation changed (%s), results may differ in the last bits", changed)
        for line in kept_settings(self.optimizer.param_groups, configured):
            get_logger().warning("optimizer: %s", line)
        if base_param_settings is not None and self.base_param_settings is not None:
            fitted = fit_settings(base_param_settings, self.base_param_settings, self.defaults)
            self.base_param_settings = {**fitted, "params": self.base_param_settings["params"]}
        if accumulation is not None:
            self._load_accumulation(accumulation, saved_order, saved_scale)

    # MMEngine's names, which subclasses read and write
    _inner_count = _in_window("done")
    _accumulative_counts = _in_window("size")
    _max_counts = _in_window("last")

    def __repr__(self) -> str:
        return (
            f"Type: {type(self).__name__}\n_accumulative_counts: {self._window.size}\noptimizer: \n{self.optimizer!r}\n"
        )

    def _params(self) -> Iterator[Tensor]:
        return chain.from_iterable(group["params"] for group in self.optimizer.param_groups)

    def _clip_grad(self) -> None:
        params = list(self._params())
        if (order := self.param_order) is not None and len(order) == len(params):
            # merging groups must not change the rounding of the norm
            params = [params[index] for index in sorted(range(len(order)), key=order.__getitem__)]
        params = [param for param in params if param.grad is not None and param.requires_grad]
        if params:
            norm = self.clip_func(params, **self.clip_grad_kwargs)
            if norm is not None:
                self.message_hub.update_scalar(f"train/{self.grad_name}", norm)

    def _loss_scale(self) -> float:
        return 1.0

    def _load_accumulation(
        self, accumulation: Mapping[str, Any], saved_order: Sequence[int] | None, saved_scale: float
    ) -> None:
        grads = accumulation.get("grads", {})
        factor = self._loss_scale() / saved_scale
        if factor != 1 and not all(grad.isfinite().all() for grad in grads.values()):
            get_logger().warning(
                "the gradients of the current accumulation window overflowed, and the loss scale has changed: "
                "restarting the window"
            )
            accumulation, grads = {"inner_count": accumulation["inner_count"]}, {}
        params = list(self._params())
        own_index = {position: index for index, position in enumerate(positions(self.param_order, len(params)))}
        saved_position = positions(saved_order, len(params))
        for index, grad in grads.items():
            param = params[own_index[saved_position[index]]] if index < len(params) else None
            if param is None or param.shape != grad.shape:
                raise CheckpointError("the accumulated gradients in this checkpoint belong to other parameters")
            param.grad = torch.empty_like(param).copy_(shards.shard_like(grad, param)).mul_(factor)
        self._window.load_state_dict(accumulation)
        self._window_is_restored = True

    def _rescale_accumulated(self, before: int, now: int) -> None:
        """Rescale accumulated gradients after the length of their window has changed."""
        get_logger().info("accumulation window changed from %d to %d iterations: gradients rescaled", before, now)
        for param in self._params():
            if param.grad is not None:
                param.grad.mul_(before / now)


def _checked_counts(counts: int) -> int:
    if not isinstance(counts, int) or counts < 1:
        raise ValueError(f"accumulative_counts must be an integer of at least 1, not {counts!r}")
    return counts


def _check_clip_arguments(function: Any, arguments: Mapping[str, Any]) -> None:
    parameters = list(inspect.signature(function).parameters)[1:]
    for name in arguments:
        if name not in parameters:
            hint = "set type='value', too" if name == "clip_value" else did_you_mean(name, parameters)
            hint = hint or f"valid arguments: {', '.join(parameters)}"
            raise ValueError(f"clip_grad: {function.__name__} has no argument {name!r}: {hint}")
    if parameters[0] not in arguments:
        raise ValueError(f"clip_grad: {parameters[0]!r}, a required argument of {function.__name__}, is missing")


def _momentum_of(group: Mapping[str, Any]) -> float:
    if "momentum" in group:
        return group["momentum"]  # type: ignore[no-any-return]
    return group["betas"][0] if "betas" in group else 0
