"""Wrappers for distributed training."""

import inspect
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor
from torch.nn.parallel import DataParallel, DistributedDataParallel

from trainwright.engine.records.logger import get_logger
from trainwright.engine.registry import MODEL_WRAPPERS
from trainwright.engine.run.model_surgery import is_model_wrapper
from trainwright.models.base import update_params

__all__ = [
    "DataParallel",
    "DistributedDataParallel",
    "MMDistributedDataParallel",
    "detect_anomalous_params",
    "is_model_wrapper",
]

MODEL_WRAPPERS.register_module(module=DataParallel)


@MODEL_WRAPPERS.register_module(name=["MMDistributedDataParallel", "DistributedDataParallel"])
class MMDistributedDataParallel(DistributedDataParallel):
    """:class:`torch.nn.parallel.DistributedDataParallel` with the steps of a model.

    Other attributes are those of the model, so that ``runner.model.head`` works in one process and in several.

    Args:
        module: the model.
        detect_anomalous_params: log every parameter that does not contribute to the loss. Slow; for debugging.
        **kwargs: arguments of ``DistributedDataParallel``.
    """

    def __init__(self, module: Any, detect_anomalous_params: bool = False, **kwargs: Any) -> None:
        if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters:  # renamed in newer PyTorch
            kwargs.setdefault("forward_sync_buffers", kwargs.pop("broadcast_buffers", True))
        super().__init__(module=module, **kwargs)
        self.detect_anomalous_params = detect_anomalous_params
        self._has_exchanged = False

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "module":
                raise
            return getattr(self.module, name)

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
        """Run one training step; see :meth:`BaseModel.train_step`."""
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

    def val_step(self, data: Any, **kwargs: Any) -> Any:
        """Predict a validation batch; see :meth:`BaseModel.val_step`."""
        return self.module.val_step(data, **kwargs)

    def test_step(self, data: Any, **kwargs: Any) -> Any:
        """Predict a test batch; see :meth:`BaseModel.test_step`."""
        return self.module.test_step(data, **kwargs)

    def _run_forward(self, data: Any, mode: str) -> Any:
        return self(**data, mode=mode) if isinstance(data, dict) else self(*data, mode=mode)


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
