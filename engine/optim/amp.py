"""Mixed precision: an optimizer wrapper with autocast and, for float16, a loss scaler."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainwright.engine.optim.optimizers import has_unsafe_fused_momentum
from trainwright.engine.optim.wrapper import NO_CONTEXT, OptimWrapper
from trainwright.engine.records.logger import get_logger
from trainwright.engine.registry import OPTIM_WRAPPERS
from trainwright.engine.strategy.shards import device_type_of, local

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def autocast(
    device_type: str | None = None,
    dtype: torch.dtype | None = None,
    enabled: bool = True,
    cache_enabled: bool | None = None,
) -> torch.autocast:
    """Return a context in which operations run in lower precision where that is safe.

    Args:
        device_type: ``"cuda"``, ``"cpu"``, …; None for the current accelerator, or the CPU without one.
        dtype: ``torch.float16`` or ``torch.bfloat16``; None for the device's default. ``torch.float32`` disables
            autocast.
        enabled: False disables autocast, also inside an outer context.
        cache_enabled: whether to cache cast weights within the context; None for PyTorch's default.
    """
    if device_type is None:
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        device_type = "cpu" if accelerator is None else accelerator.type
    if dtype is torch.float32:
        dtype, enabled = None, False
    return torch.autocast(device_type, dtype=dtype, enabled=enabled, cache_enabled=cache_enabled)


@OPTIM_WRAPPERS.register_module()
class AmpOptimWrapper(OptimWrapper):
    """An :class:`OptimWrapper` for mixed precision (Micikevicius et al., https://arxiv.org/abs/1710.03740).

    It uses the device of the parameters. In float16, the loss is scaled, gradients are unscaled before clipping, and
    steps with overflowed gradients are skipped. In bfloat16, which has the range of float32, none of this is needed.

    Args:
        loss_scale: ``"dynamic"``, a fixed scale, or the arguments of :class:`torch.amp.GradScaler`. The last two
            also enable scaling in bfloat16.
        dtype: ``"float16"``, ``"bfloat16"``, ``"float32"`` (nothing is cast) or a ``torch.dtype``. None for the
            device's default: float16 on CUDA, bfloat16 on CPU.
        use_fsdp: whether to use the scaler for sharded parameters (FSDP).
        optimizer: the optimizer.
        accumulative_counts: iterations per window.
        clip_grad: as for :class:`OptimWrapper`; bounds apply to the unscaled gradients.

    Raises:
        ValueError: ``dtype`` is unknown, the optimizer's step needs a closure, or the loss is scaled and the
            optimizer is a fused SGD with momentum.
        TypeError: ``loss_scale`` has the wrong type.
    """

    def __init__(
        self,
        loss_scale: str | float | Mapping[str, Any] = "dynamic",
        dtype: str | torch.dtype | None = None,
        use_fsdp: bool = False,
        *,
        optimizer: Optimizer,
        accumulative_counts: int = 1,
        clip_grad: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(optimizer, accumulative_counts, clip_grad)
        if self._needs_closure:
            raise ValueError(f"{type(optimizer).__name__} needs a closure, which loss scaling does not support")
        self.device_type = device_type_of(next(self._params()))
        self.cast_dtype = _resolve_dtype(dtype)
        self._static_scale: float | None = None
        scaled = (self.cast_dtype or torch.get_autocast_dtype(self.device_type)) is torch.float16
        scaler_args: dict[str, Any] = {"enabled": scaled}
        if isinstance(loss_scale, Mapping):
            scaler_args = dict(loss_scale)
        elif isinstance(loss_scale, int | float) and not isinstance(loss_scale, bool):
            self._static_scale = float(loss_scale)
            scaler_args = {"init_scale": self._static_scale}
        elif loss_scale != "dynamic":
            raise TypeError(f"loss_scale must be a number, a dict or 'dynamic', not {loss_scale!r}")
        scaler_class: type[torch.amp.GradScaler] = torch.amp.GradScaler
        if use_fsdp:
            from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

            scaler_class = ShardedGradScaler
        self.loss_scaler = scaler_class(self.device_type, **scaler_args)
        if local(next(self._params())).device.type != self.device_type:
            # With CPU offload, PyTorch unscales before its copies of the scale have arrived: keep the scale there, too.
            self.loss_scaler.scale(torch.zeros(()))
        if self.loss_scaler.is_enabled() and has_unsafe_fused_momentum(optimizer):
            raise ValueError(
                "SGD with momentum and fused=True reads uninitialized memory when the loss scaler skips its first "
                "step: remove 'fused'"
            )

    def accumulate(self, loss: Tensor) -> None:
        """Scale a partial loss of an iteration and propagate it back."""
        self.loss_scaler.scale(self.scale_loss(loss)).backward()  # type: ignore[no-untyped-call]

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Scale a scalar loss, propagate it back and count it."""
        super().backward(self.loss_scaler.scale(loss), **kwargs)

    def step(self, **kwargs: Any) -> None:
        """Unscale and clip the gradients, update the parameters unless gradients overflowed, and adapt the scale."""
        self._exchange()
        if self.loss_scaler.is_enabled() and all(param.grad is None for param in self._params()):
            return  # nothing to update; the scaler would raise
        if self.clip_grad_kwargs:
            self.loss_scaler.unscale_(self.optimizer)
            self._clip_grad()
        self.loss_scaler.step(self.optimizer, **kwargs)
        self.loss_scaler.update(self._static_scale)

    def optim_context(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Return a context for forward and backward: autocast, without all-reduce within a window."""
        sync = super().optim_context(model)
        cast = autocast(self.device_type, self.cast_dtype)
        return cast if sync is NO_CONTEXT else _both(sync, cast)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of :class:`OptimWrapper` and ``loss_scaler``."""
        return {**super().state_dict(), "loss_scaler": self.loss_scaler.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore a state.

        A dynamic scale is restored, if the state has one (in bfloat16 or full precision it does not), but growth
        factors and intervals are those of the config. Accumulated gradients are rescaled accordingly.
        """
        scaler_state = state_dict.get("loss_scaler")
        if self._static_scale is None and self.loss_scaler.is_enabled():
            if scaler_state:
                counters = {key: scaler_state[key] for key in ("scale", "_growth_tracker")}
                self.loss_scaler.load_state_dict({**self.loss_scaler.state_dict(), **counters})
            else:
                scale = self.loss_scaler.get_scale()
                get_logger().warning("the checkpoint contains no loss scale: starting at %s", scale)
        super().load_state_dict(state_dict)

    def _loss_scale(self) -> float:
        return self.loss_scaler.get_scale()


@contextmanager
def _both(first: AbstractContextManager[Any], second: AbstractContextManager[Any]) -> Iterator[None]:
    with first, second:
        yield


def _resolve_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    resolved = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if (resolved is None and dtype is not None) or (resolved is not None and resolved not in _DTYPES.values()):
        raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}, not {dtype!r}")
    return resolved
