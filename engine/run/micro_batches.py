"""What to do about a training step that does not fit into memory."""

import gc
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from trainwright.engine.errors import ConfigError, TrainingError
from trainwright.engine.optim.wrapper import OptimWrapper, OptimWrapperDict
from trainwright.engine.structures.elements import BaseDataElement
from trainwright.engine.structures.sample import DataSample

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner

REMEDIES = (
    "Out of memory. What helps: a smaller train_dataloader.batch_size, with optim_wrapper.accumulative_counts raised "
    "in proportion for the same effective batch (train_cfg=dict(halve_batch_on_oom=True) does the like by itself); "
    "mixed precision (--amp); activation_checkpointing=[names of modules]; smaller images."
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that an accelerator, or the host, has no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


class MicroBatches:
    """Trains a batch in parts, and in twice as many from then on whenever a part does not fit into memory.

    The gradients of the parts are added up, each weighted by its share of the samples, and make one update. For a
    loss that is a mean over samples that is the update of the whole batch, up to rounding; a loss that is normalised
    otherwise, and batch normalisation, see the parts. The number of parts stays for the rest of the run, and is part
    of checkpoints.

    Args:
        runner: the run; its model must call ``optim_wrapper.update_params`` once in a step.

    Raises:
        ConfigError: the run has several optimizers, or several processes, of which only one may be out of memory.
    """

    def __init__(self, runner: "Runner") -> None:
        if runner.distributed:
            message = "works in a single process only: others would wait for the one that is out of memory"
            raise ConfigError("train_cfg.halve_batch_on_oom", message, "set a smaller batch size instead")
        self._runner = runner

    def train_step(self, data_batch: Any) -> Any:
        """Does one training step.

        Args:
            data_batch: the batch as the loader yields it.

        Returns:
            What the model's ``train_step`` returns; of several parts, the means of the tensors.

        Raises:
            RuntimeError: a part of a single sample does not fit, or the optimizer's own step does not.
        """
        runner = self._runner
        wrapper = runner.optim_wrapper
        if isinstance(wrapper, OptimWrapperDict):
            message = "works with a single optimizer only, whose update can be put off until all parts are done"
            raise ConfigError("train_cfg.halve_batch_on_oom", message, "set a smaller batch size instead")
        while True:
            count = wrapper.inner_count
            try:
                return self._train(data_batch, wrapper)
            except RuntimeError as error:
                parts = 2 * runner.state.micro_batches
                # A loss that was counted means that the optimizer was at work: what it did cannot be undone.
                if not is_out_of_memory(error) or wrapper.inner_count != count or parts > num_samples(data_batch):
                    raise
                problem = str(error).splitlines()[0]
            self._halve(parts, problem, wrapper)  # outside of the handler: the error keeps the tensors of the step

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
            for name, value in model.train_step(take(data_batch, start, end), optim_wrapper=part).items():
                is_number = isinstance(value, Tensor)
                outputs[name] = outputs.get(name, 0) + share * value.detach() if is_number else value
            part.check(model)
        return outputs

    def _halve(self, parts: int, problem: str, wrapper: OptimWrapper) -> None:
        runner = self._runner
        lost = "" if wrapper.should_update() else " What its accumulation window had gathered so far is left out."
        wrapper.zero_grad()
        gc.collect()
        if runner.device.type != "cpu":
            torch.get_device_module(runner.device).empty_cache()
        runner.seed_step(runner.iter)
        runner.state.micro_batches = parts
        runner.logger.warning(
            "Iteration %d is out of memory (%s). From now on batches are trained in %d parts that make one update.%s",
            runner.iter + 1, problem, parts, lost,
        )  # fmt: skip


class _Part:
    """Stands for the optimizer wrapper while a part of a batch is trained: only the last one updates."""

    def __init__(self, wrapper: OptimWrapper, share: float, last: bool) -> None:
        self._wrapper = wrapper
        self._share = share
        self._last = last
        self._calls = 0

    def update_params(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Propagates the loss back, weighted by its share of the batch."""
        self._calls += 1
        if self._last:
            self._wrapper.update_params(loss * self._share, *args, **kwargs)
        else:
            self._wrapper.accumulate(loss * self._share)

    def check(self, model: Any) -> None:
        """Raises a ``TrainingError`` if the model updated its parameters in another way."""
        if self._calls != 1:
            raise TrainingError(
                f"train_step of {type(model).__name__} called optim_wrapper.update_params {self._calls} times: with "
                "train_cfg.halve_batch_on_oom it must do so once in a step"
            )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapper, name)


def num_samples(data_batch: Any) -> int:
    """Return how many samples a batch has; 1 for a batch of a kind that cannot be counted.

    Args:
        data_batch: a list of samples (data samples, or mappings with the same keys); or a mapping, list or tuple of
            the model's arguments. The first of them that can be counted tells, ``inputs`` before all others: a tensor
            by its first dimension, a list by its length, a batched data sample, or a mapping of these.
    """
    if data_batch is None:
        return 0
    if not isinstance(data_batch, list | tuple) or _is_list_of_samples(data_batch):
        return _count(data_batch) or 1
    return next((number for value in data_batch if (number := _count(value)) is not None), len(data_batch))


def take(data_batch: Any, start: int, end: int) -> Any:
    """Return the samples from ``start`` to before ``end`` of a batch; see :func:`num_samples`."""
    if isinstance(data_batch, Tensor | Mapping | DataSample) or _is_list_of_samples(data_batch):
        return _take(data_batch, start, end)
    if hasattr(data_batch, "_fields"):
        return type(data_batch)(*(_take(value, start, end) for value in data_batch))
    return type(data_batch)(_take(value, start, end) for value in data_batch)


def _is_list_of_samples(value: Any) -> bool:
    """Whether a list holds samples, not the arguments of the model."""
    if not isinstance(value, list | tuple) or hasattr(value, "_fields") or not value:
        return False
    first = value[0]
    if isinstance(first, Mapping):
        return len(value) > 1 and all(isinstance(item, Mapping) and item.keys() == first.keys() for item in value)
    return all(isinstance(item, BaseDataElement) for item in value)


def _count(value: Any) -> int | None:
    """Return how many samples an argument of the model is of, or None if it does not tell."""
    if isinstance(value, Mapping | BaseDataElement):
        items = dict(value.items())
        first = [items["inputs"]] if "inputs" in items else []
        return next((number for item in [*first, *items.values()] if (number := _count(item)) is not None), None)
    if isinstance(value, Tensor | np.ndarray):
        return len(value) if value.ndim else None
    return len(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else None


def _take(value: Any, start: int, end: int) -> Any:
    if isinstance(value, Mapping):
        return {name: _take(item, start, end) for name, item in value.items()}
    if isinstance(value, DataSample):
        return DataSample.batch(value.unbatch()[start:end])
    if isinstance(value, Tensor | Sequence):
        return value[start:end]
    raise TrainingError(f"a batch with a {type(value).__name__} cannot be trained in parts: {value!r}")
