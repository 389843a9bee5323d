"""Wrappers for distributed training."""

import inspect
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim import Optimizer

from trainwright.engine.distributed import average_gradients, broadcast
from trainwright.engine.errors import ConfigError, TrainingError
from trainwright.engine.optim.wrapper_dict import OptimWrapperDict
from trainwright.engine.records.logger import get_logger
from trainwright.engine.registry import MODEL_WRAPPERS
from trainwright.engine.run.model_surgery import is_model_wrapper
from trainwright.models.base import BaseModel, update_params

__all__ = [
    "DataParallel",
    "DistributedDataParallel",
    "MMDistributedDataParallel",
    "MMSeparateDistributedDataParallel",
    "detect_anomalous_params",
    "is_model_wrapper",
]

MODEL_WRAPPERS.register_module(module=DataParallel)


class _WrapsModel(nn.Module):
    """A module whose attribute ``module`` is the model; other attributes are those of the model."""

    module: Any

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "module":
                raise
            return getattr(self.module, name)

    def val_step(self, data: Any, **kwargs: Any) -> Any:
        """Predict a validation batch; see :meth:`BaseModel.val_step`."""
        return self.module.val_step(data, **kwargs)

    def test_step(self, data: Any, **kwargs: Any) -> Any:
        """Predict a test batch; see :meth:`BaseModel.test_step`."""
        return self.module.test_step(data, **kwargs)


@MODEL_WRAPPERS.register_module(name=["MMDistributedDataParallel", "DistributedDataParallel"])
class MMDistributedDataParallel(_WrapsModel, DistributedDataParallel):
    """:class:`torch.nn.parallel.DistributedDataParallel` with the steps of a model.

    Other attributes are those of the model, so that ``runner.model.head`` works in one process and in several.

    Args:
        module: the model.
        detect_anomalous_params: log every parameter that does not contribute to the loss. Slow; for debugging.
        **kwargs: arguments of ``DistributedDataParallel``.

    Raises:
        ConfigError: the model has its own ``train_step``, which would not be called.
    """

    def __init__(self, module: Any, detect_anomalous_params: bool = False, **kwargs: Any) -> None:
        if not self.can_train(type(module)):
            message = f"{type(module).__name__} has its own train_step, which {type(self).__name__} would not call"
            raise ConfigError("model_wrapper_cfg.type", message, "use 'MMSeparateDistributedDataParallel'")
        if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters:  # renamed in newer PyTorch
            kwargs.setdefault("forward_sync_buffers", kwargs.pop("broadcast_buffers", True))
        super().__init__(module=module, **kwargs)
        self.detect_anomalous_params = detect_anomalous_params
        self._has_exchanged = False

    @staticmethod
    def can_train(model: type) -> bool:
        """Return whether the step of this class does what that of a class of models does."""
        return getattr(model, "train_step", BaseModel.train_step) is BaseModel.train_step

    def keep_buckets(self) -> None:
        """Exchange gradients in the same buckets from the first iteration on.

        PyTorch rearranges them after the first iteration of a process, which changes the order of the sums over three
        or more processes. A resumed run would therefore differ in the last bits from an uninterrupted one.
        """
        if not self.static_graph:
            self.reducer: Any = _FixedBuckets(self.reducer)

    def register_comm_hook(self, state: Any, hook: Any) -> None:
        """Register how gradients are exchanged, as in PyTorch."""
        reducer, self.reducer = self.reducer, getattr(self.reducer, "inner", self.reducer)
        super().register_comm_hook(state, hook)
        self.reducer = reducer

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        """Run one training step; see :meth:`BaseModel.train_step`.

        Raises:
            ConfigError: there are several optimizers.
        """
        if isinstance(optim_wrapper, OptimWrapperDict):
            message = f"{type(self).__name__} cannot train with several optimizers"
            raise ConfigError("model_wrapper_cfg.type", message, "use 'MMSeparateDistributedDataParallel'")
        with optim_wrapper.optim_context(self):
            data = self.module.data_preprocessor(data, True)
            # Call the wrapper's forward, which prepares the gradient all-reduce.
            losses = self._run_forward(data, "loss")
        log_vars: dict[str, Tensor]
        loss, log_vars = self.module.parse_losses(losses)
        update_params(loss, optim_wrapper, self.module)
        self._has_exchanged = True
        if self.detect_anomalous_params:
            detect_anomalous_params(loss, self)
        return log_vars

    def no_sync(self) -> AbstractContextManager[Any]:  # type: ignore[override]
        """Return a context without the exchange of gradients.

        With ``static_graph``, the first iteration exchanges them all the same, because it records the graph.
        """
        if self.static_graph and not self._has_exchanged:
            return nullcontext()
        return super().no_sync()

    def _run_forward(self, data: Any, mode: str) -> Any:
        return self(**data, mode=mode) if isinstance(data, dict) else self(*data, mode=mode)


@MODEL_WRAPPERS.register_module()
class MMSeparateDistributedDataParallel(_WrapsModel):
    """A wrapper for models with their own ``train_step``, such as GANs with several optimizers.

    The gradients of an optimizer are averaged over all processes in ``step`` or ``update_params`` of its wrapper, no
    matter how they were computed. (MMEngine's class wraps each child in ``DistributedDataParallel`` instead, which
    exchanges gradients during the backward pass, but fails for parameters outside of children and for methods of a
    child other than ``forward``.)

    Args:
        module: the model.
        broadcast_buffers: copy the buffers of rank 0 to all processes before each step.
        find_unused_parameters: has no effect, since parameters without a gradient are always allowed.
        device_ids: has no effect; the model is already on its device.
    """

    def __init__(
        self,
        module: Any,
        broadcast_buffers: bool = False,
        find_unused_parameters: bool = False,
        device_ids: Any = None,
    ) -> None:
        super().__init__()
        self.module = module
        self.broadcast_buffers = broadcast_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model."""
        return self.module(*args, **kwargs)

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        """Run the training step of the model.

        Raises:
            TrainingError: it calls ``step`` of an optimizer instead of that of its wrapper.
        """
        for wrapper in optim_wrapper.optim_wrappers.values():
            if wrapper.exchange_gradients is None:
                wrapper.exchange_gradients = _Exchange(wrapper.optimizer)
        if self.broadcast_buffers:
            for buffer in self.module.buffers():
                broadcast(buffer)
        return self.module.train_step(data, optim_wrapper=optim_wrapper)  # type: ignore[no-any-return]


class _Exchange:
    """The averaging of gradients before each update of an optimizer, without which it refuses to step."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._is_done = False
        optimizer.register_step_pre_hook(self._check)

    def __call__(self, params: Iterable[Tensor]) -> None:
        average_gradients(params)
        self._is_done = True

    def _check(self, optimizer: Optimizer, *arguments: Any) -> None:
        if not self._is_done:
            raise TrainingError(
                f"train_step called {type(optimizer).__name__}.step itself, with the gradients of this process only: "
                "call step or update_params of the optimizer wrapper"
            )
        self._is_done = False


class _FixedBuckets:
    """A reducer of ``DistributedDataParallel`` that does not rearrange its buckets."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def _rebuild_buckets(self) -> bool:
        return False


def detect_anomalous_params(loss: Tensor, model: Any) -> list[str]:
    """Log and return the names of the trainable parameters that do not contribute to a loss.

    Args:
        loss: scalar with its autograd graph, before or after the backward pass.
        model: module with the parameters.
    """
    reached: set[Tensor] = set()
    seen: set[Any] = set()
    pending = [loss.grad_fn]
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            reached.add(node.variable)
        pending += [parent for parent, _ in node.next_functions]
    names = [name for name, p in model.named_parameters() if p.requires_grad and p not in reached]
    for name in names:
        get_logger().error("%s does not contribute to the loss", name)
    return names
