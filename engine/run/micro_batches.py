"""Training a batch in parts when a step runs out of memory."""

import gc
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from trainwright.engine.data.several import NamedBatches
from trainwright.engine.errors import ConfigError, TrainingError
from trainwright.engine.optim.wrapper import OptimWrapper
from trainwright.engine.optim.wrapper_dict import OptimWrapperDict
from trainwright.engine.structures.elements import BaseDataElement
from trainwright.engine.structures.sample import DataSample

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner

OUT_OF_MEMORY_ADVICE = (
    "Out of memory. Try a smaller train_dataloader.batch_size, with optim_wrapper.accumulative_counts raised in "
    "proportion to keep the effective batch size (train_cfg=dict(halve_batch_on_oom=True) does this automatically); "
    "mixed precision (--amp); activation_checkpointing=[names of modules]; or smaller images."
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the accelerator or the host is out of memory."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


class MicroBatches:
    """A training step that splits its batch, into twice as many parts whenever one does not fit into memory.

    The gradients of the parts, weighted by their share of the samples, are summed for a single update. If the loss is
    a mean over samples, this equals the update of the whole batch up to rounding; batch normalization, and losses
    normalized in another way, see only a part. The number of parts is kept for the rest of the run and saved in
    checkpoints.

    Args:
        runner: the run; its model must call ``optim_wrapper.update_params`` once per step.

    Raises:
        ConfigError: the run has several optimizers or data loaders, or several processes, of which only one may run
            out of memory.
    """

    def __init__(self, runner: "Runner") -> None:
        if runner.distributed:
            message = "works in a single process only: the others would wait for the one that ran out of memory"
            raise ConfigError("train_cfg.halve_batch_on_oom", message, "set a smaller batch size instead")
        self._runner = runner

    def train_step(self, data_batch: Any) -> Any:
        """Run one training step.

        Returns:
            The outputs of the model's ``train_step``; with several parts, tensors are averaged over them.

        Raises:
            RuntimeError: a single sample, or the optimizer's own step, does not fit into memory.
        """
        runner = self._runner
        wrapper = runner.optim_wrapper
        if isinstance(wrapper, OptimWrapperDict):
            message = "works with a single optimizer only, whose update can wait until all parts are done"
            raise ConfigError("train_cfg.halve_batch_on_oom", message, "set a smaller batch size instead")
        if isinstance(data_batch, NamedBatches):
            message = "works with a single data loader only"
            raise ConfigError("train_cfg.halve_batch_on_oom", message, "set smaller batch sizes instead")
        while True:
            count = wrapper.inner_count
            try:
                return self._train(data_batch, wrapper)
            except RuntimeError as error:
                parts = 2 * runner.state.micro_batches
                # A counted loss means that the optimizer may have changed parameters, which cannot be undone.
                if not is_out_of_memory(error) or wrapper.inner_count != count or parts > num_samples(data_batch):
                    raise
                problem = str(error).splitlines()[0]
            # Outside the handler, because the traceback keeps the tensors of the step alive.
            self._halve(parts, problem, wrapper)

    def _train(self, data_batch: Any, wrapper: OptimWrapper) -> Any:
        parts = self._runner.state.micro_batches
        model = self._runner.model
        if parts == 1:
            return model.train_step(data_batch, optim_wrapper=wrapper)
        size = num_samples(data_batch)
        bounds = [size * index // parts for index in range(parts + 1)]
        outputs: dict[str, Any] = {}
        for start, end in itertools.pairwise(bounds):
            if start == end:  # the last batch of an epoch may have fewer samples than there are parts
                continue
            share = (end - start) / size
            part = _Part(wrapper, share, last=end == size)
            for name, value in model.train_step(slice_batch(data_batch, start, end), optim_wrapper=part).items():
                is_number = isinstance(value, Tensor)
                outputs[name] = outputs.get(name, 0) + share * value.detach() if is_number else value
            part.check(model)
        return outputs

    def _halve(self, parts: int, problem: str, wrapper: OptimWrapper) -> None:
        runner = self._runner
        lost = "" if wrapper.should_update() else " Gradients accumulated for the current update are discarded."
        wrapper.zero_grad()
        gc.collect()
        if runner.device.type != "cpu":
            torch.get_device_module(runner.device).empty_cache()
        runner.seed_step(runner.iter)
        runner.state.micro_batches = parts
        runner.logger.warning(
            "Iteration %d ran out of memory (%s). From now on, batches are trained in %d parts with a single update.%s",
            runner.iter + 1, problem, parts, lost,
        )  # fmt: skip


class _Part:
    """A stand-in for the optimizer wrapper during one part of a batch: only the last part updates."""

    def __init__(self, wrapper: OptimWrapper, share: float, last: bool) -> None:
        self._wrapper = wrapper
        self._share = share
        self._last = last
        self._calls = 0

    def update_params(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Backpropagate the loss, weighted by the part's share of the batch."""
        self._calls += 1
        if self._last:
            self._wrapper.update_params(loss * self._share, *args, **kwargs)
        else:
            self._wrapper.accumulate(loss * self._share)

    def check(self, model: Any) -> None:
        """Raise a ``TrainingError`` unless the model called :meth:`update_params` once."""
        if self._calls != 1:
            raise TrainingError(
                f"train_step of {type(model).__name__} called optim_wrapper.update_params {self._calls} times: with "
                "train_cfg.halve_batch_on_oom it must do so once per step"
            )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapper, name)


def num_samples(data_batch: Any) -> int:
    """Return the number of samples in a batch, or 1 if it cannot be determined.

    Args:
        data_batch: a list of samples (data samples, or mappings with the same keys); or a mapping, list or tuple of
            the model's arguments. The number is that of the first countable argument, starting with ``data_samples``
            and ``inputs``: the first dimension of a tensor, the length of a list, or that of a batched data sample or
            mapping of these. For the batches of several data loaders, it is the sum.
    """
    if data_batch is None:
        return 0
    if isinstance(data_batch, NamedBatches):
        return sum(map(num_samples, data_batch.values()))
    if not isinstance(data_batch, list | tuple) or _is_list_of_samples(data_batch):
        return _count(data_batch) or 1
    return next((number for value in data_batch if (number := _count(value)) is not None), len(data_batch))


def slice_batch(data_batch: Any, start: int, end: int) -> Any:
    """Return the samples ``start:end`` of a batch; see :func:`num_samples` for the kinds of batches."""
    if isinstance(data_batch, Mapping) and isinstance(views := data_batch.get("inputs"), list):
        number = num_samples(data_batch)
        if len(views) != number and all(isinstance(view, Tensor) and len(view) == number for view in views):
            return {**_slice({**data_batch, "inputs": None}, start, end), "inputs": [view[start:end] for view in views]}
    if isinstance(data_batch, Tensor | Mapping | DataSample) or _is_list_of_samples(data_batch):
        return _slice(data_batch, start, end)
    if hasattr(data_batch, "_fields"):
        return type(data_batch)(*(_slice(value, start, end) for value in data_batch))
    return type(data_batch)(_slice(value, start, end) for value in data_batch)


def _is_list_of_samples(value: Any) -> bool:
    """Return whether a list contains samples rather than the arguments of the model."""
    if not isinstance(value, list | tuple) or hasattr(value, "_fields") or not value:
        return False
    first = value[0]
    if isinstance(first, Mapping):
        return len(value) > 1 and all(isinstance(item, Mapping) and item.keys() == first.keys() for item in value)
    return all(isinstance(item, BaseDataElement) for item in value)


def _count(value: Any) -> int | None:
    """Return the number of samples in an argument of the model, or None if unknown."""
    if isinstance(value, Mapping | BaseDataElement):
        items = dict(value.items())
        first = [items[name] for name in ("data_samples", "inputs") if name in items]  # inputs may be a list of views
        return next((number for item in [*first, *items.values()] if (number := _count(item)) is not None), None)
    if isinstance(value, Tensor | np.ndarray):
        return len(value) if value.ndim else None
    return len(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else None


def _slice(value: Any, start: int, end: int) -> Any:
    if value is None:
        return None
    if isinstance(value, Mapping):
        return {name: _slice(item, start, end) for name, item in value.items()}
    if isinstance(value, DataSample):
        return DataSample.batch(value.unbatch()[start:end])
    if isinstance(value, Tensor | Sequence):
        return value[start:end]
    raise TrainingError(f"cannot train a batch with a {type(value).__name__} in parts: {value!r}")
