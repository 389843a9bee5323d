"""Running averages of a model's weights."""

import math
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainwright.engine.fidelity import reproduces_mmengine
from trainwright.engine.records.logger import get_logger
from trainwright.engine.records.message_hub import MessageHub
from trainwright.engine.registry import MODELS
from trainwright.engine.strategy.shards import copy_weights, is_sharded, local


class _TensorRef(NamedTuple):
    """A (dict, name) reference, so that a replaced tensor is still found."""

    tensors: dict[str, Any]
    name: str

    def get(self) -> Tensor:
        return self.tensors[self.name]  # type: ignore[no-any-return]


class _TensorPairs(NamedTuple):
    """Corresponding tensors of the average and the source, all of the same devices and dtypes."""

    averaged: list[_TensorRef]
    source: list[_TensorRef]
    sharded: bool

    def get(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the tensors, or their parts in this process."""
        averaged = [ref.get() for ref in self.averaged]
        source = [ref.get() for ref in self.source]
        if self.sharded:
            return [local(tensor) for tensor in averaged], [local(tensor) for tensor in source]
        return averaged, source


class BaseAveragedModel(nn.Module):
    """Base class of models that hold a running average of another model's weights.

    All tensors of the same device and dtype are averaged in one call. In the state dict, the names of the averaged
    weights start with ``module.``, and ``steps`` is the number of updates. Subclasses must implement :meth:`avg_func`,
    and should implement :meth:`avg_foreach` for speed.

    Args:
        model: the model to average.
        interval: average every ``interval`` updates; the updates in between only copy buffers.
        device: device of the average; the model's device if None.
        update_buffers: average floating-point buffers too; if False, buffers are copied at every update.

    Raises:
        ValueError: ``interval`` is less than 1.
    """

    steps: Tensor

    def __init__(
        self,
        model: nn.Module,
        interval: int = 1,
        device: torch.device | str | None = None,
        update_buffers: bool = False,
    ) -> None:
        super().__init__()
        if interval < 1:
            raise ValueError(f"interval must be at least 1, not {interval}")
        self.module = copy_weights(model).requires_grad_(False)
        if device is not None:
            self.module = self.module.to(device)
        self.interval = interval
        self.update_buffers = update_buffers
        self.register_buffer("steps", torch.tensor(0, dtype=torch.long, device=device))
        # Also counted in Python, because reading the buffer would synchronize with the device.
        self._num_steps = 0
        self._source: nn.Module | None = None
        self._averages: list[_TensorPairs] = []
        self._copies: list[_TensorPairs] = []

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "avg_func" in vars(cls) and "avg_foreach" not in vars(cls):
            # The inherited fast version computes a different average.
            cls.avg_foreach = BaseAveragedModel.avg_foreach  # type: ignore[method-assign]

    @property
    def avg_parameters(self) -> dict[str, Tensor]:
        """The averaged tensors by name, for subclasses from MMEngine that override :meth:`update_parameters`."""
        return self.module.state_dict() if self.update_buffers else dict(self.module.named_parameters())

    def avg_func(self, averaged_param: Tensor, source_param: Tensor, steps: int) -> None:
        """Update one averaged tensor in place.

        Args:
            averaged_param: the average.
            source_param: the model's tensor, on the same device.
            steps: number of updates so far.
        """
        raise NotImplementedError

    def avg_foreach(self, averaged_params: list[Tensor], source_params: list[Tensor], steps: int) -> None:
        """Update many averaged tensors in place, bit-identical to calling :meth:`avg_func` on each."""
        for averaged, source in zip(averaged_params, source_params):
            self.avg_func(averaged, source, steps)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the averaged model."""
        return self.module(*args, **kwargs)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Update the average with a model's weights; the first update copies them.

        Args:
            model: the model that is averaged.

        Raises:
            ValueError: the model lacks a parameter or buffer of the average.
        """
        if model is not self._source:
            self._pair_with(model)
        if self._num_steps == 0:
            for pairs in self._averages:
                _copy(pairs)
        elif self._num_steps % self.interval == 0:
            for pairs in self._averages:
                averaged, source = _tensors_on_one_device(pairs)
                if averaged[0].is_floating_point():
                    self.avg_foreach(averaged, source, self._num_steps)
        for pairs in self._copies:
            _copy(pairs)
        self._num_steps += 1
        self.steps.add_(1)

    def _pair_with(self, model: nn.Module) -> None:
        """Find the corresponding tensors once, since walking a model is slow."""
        averaged = dict(_tensor_refs(self.module, persistent_buffers=self.update_buffers))
        source = dict(_tensor_refs(model, persistent_buffers=self.update_buffers))
        if missing := averaged.keys() - source.keys():
            raise ValueError(f"{type(model).__name__} is not the averaged model: it has no {min(missing)}")
        self._averages = _group_by_device_and_dtype(averaged, source)
        self._copies = []
        if not self.update_buffers:
            own, other = dict(_buffer_refs(self.module)), dict(_buffer_refs(model))
            self._copies = _group_by_device_and_dtype(own, {name: other[name] for name in own})
        object.__setattr__(self, "_source", model)  # bypass nn.Module, which would register a submodule

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._num_steps = int(self.steps)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_source": None, "_averages": [], "_copies": []}

    def __deepcopy__(self, memo: dict[int, Any]) -> "BaseAveragedModel":
        copy = type(self).__new__(type(self))
        memo[id(self)] = copy
        copy.__dict__.update(deepcopy(self.__getstate__(), memo))
        return copy


@MODELS.register_module()
class StochasticWeightAverage(BaseAveragedModel):
    """The arithmetic mean of all weights so far (Izmailov et al. 2018), https://arxiv.org/abs/1803.05407.

    Args:
        model: the model to average.
        interval: average every ``interval`` updates.
        device: device of the average; the model's device if None.
        update_buffers: average floating-point buffers too.
    """

    def avg_func(self, averaged_param: Tensor, source_param: Tensor, steps: int) -> None:
        averaged_param.add_(source_param - averaged_param, alpha=1 / (steps // self.interval + 1))

    def avg_foreach(self, averaged_params: list[Tensor], source_params: list[Tensor], steps: int) -> None:
        difference = torch._foreach_sub(source_params, averaged_params)
        torch._foreach_add_(averaged_params, difference, alpha=1 / (steps // self.interval + 1))


@MODELS.register_module()
class ExponentialMovingAverage(BaseAveragedModel):
    """The exponential moving average ``(1 - momentum) * average + momentum * weights``.

    Args:
        model: the model to average.
        momentum: weight of the new weights, in (0, 1), usually small.
        interval: average every ``interval`` updates.
        device: device of the average; the model's device if None.
        update_buffers: average floating-point buffers too.

    Raises:
        ValueError: ``momentum`` is not in (0, 1).
    """

    def __init__(
        self,
        model: nn.Module,
        momentum: float = 0.0002,
        interval: int = 1,
        device: torch.device | str | None = None,
        update_buffers: bool = False,
    ) -> None:
        super().__init__(model, interval, device, update_buffers)
        if not 0 < momentum < 1:
            raise ValueError(f"momentum must be in (0, 1), not {momentum}")
        if momentum > 0.5:
            get_logger().warning(
                "momentum=%s is unusually large: it is the weight of the new weights, so a decay of 0.999 is "
                "momentum=0.001",
                momentum,
            )
        self.momentum = momentum

    def avg_func(self, averaged_param: Tensor, source_param: Tensor, steps: int) -> None:
        averaged_param.lerp_(source_param, self.momentum)

    def avg_foreach(self, averaged_params: list[Tensor], source_params: list[Tensor], steps: int) -> None:
        torch._foreach_lerp_(averaged_params, source_params, self.momentum)


@MODELS.register_module()
class MomentumAnnealingEMA(ExponentialMovingAverage):
    """An exponential moving average with annealed momentum: ``max(momentum, gamma / (gamma + steps))``.

    Args:
        model: the model to average.
        momentum: smallest weight of the new weights, in (0, 1).
        gamma: annealing constant; larger values lower the momentum more slowly. Positive.
        interval: average every ``interval`` updates.
        device: device of the average; the model's device if None.
        update_buffers: average floating-point buffers too.

    Raises:
        ValueError: ``gamma`` is not positive.
    """

    def __init__(
        self,
        model: nn.Module,
        momentum: float = 0.0002,
        gamma: int = 100,
        interval: int = 1,
        device: torch.device | str | None = None,
        update_buffers: bool = False,
    ) -> None:
        super().__init__(model, momentum, interval, device, update_buffers)
        if gamma <= 0:
            raise ValueError(f"gamma must be positive, not {gamma}")
        self.gamma = gamma

    def avg_func(self, averaged_param: Tensor, source_param: Tensor, steps: int) -> None:
        averaged_param.lerp_(source_param, self._momentum_at(steps))

    def avg_foreach(self, averaged_params: list[Tensor], source_params: list[Tensor], steps: int) -> None:
        torch._foreach_lerp_(averaged_params, source_params, self._momentum_at(steps))

    def _momentum_at(self, steps: int) -> float:
        return max(self.momentum, self.gamma / (self.gamma + steps))


@MODELS.register_module()
class MomentumTeacher(MomentumAnnealingEMA):
    """A copy of a part of a model that follows its weights: the teacher of BYOL, MoCo, DINO and mean teachers.

    It is a part of the model, and of its checkpoints, but is not trained: its outputs have no gradients. It has the
    weights of the student when the training begins, and is updated after each step of the optimizer that trains the
    student: with an overflow of mixed precision, or while gradients are accumulated, not at all.

    Example:
        >>> class MyBYOL(BaseModel):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.student = nn.Sequential(backbone, projector)
        ...         self.teacher = MomentumTeacher(self.student, momentum=0.004, end_momentum=0.0)

    Args:
        student: the part of the model to follow.
        momentum: weight of the new weights, in (0, 1): 0.004 is a decay of 0.996.
        end_momentum: the momentum at the end of the training, in [0, 1), reached on a half cosine as in BYOL (Grill et
            al. 2020, https://arxiv.org/abs/2006.07733); None for a constant one.
        gamma: at least a momentum of ``gamma / (gamma + steps)``, so that the teacher first follows fast, as in mean
            teachers (Tarvainen and Valpola 2017, https://arxiv.org/abs/1703.01780); 0 for none.
        update_buffers: average floating-point buffers too; if False, they are copied. Those of a teacher in training
            mode are updated by its own batches as well.
        evaluates: keep the teacher in evaluation mode, without dropout and updates of normalization statistics.

    Raises:
        ValueError: a value is out of range.
    """

    student: nn.Module

    def __init__(
        self,
        student: nn.Module,
        momentum: float = 0.004,
        end_momentum: float | None = None,
        gamma: int = 0,
        update_buffers: bool = True,
        evaluates: bool = False,
    ) -> None:
        super().__init__(student, momentum, max(gamma, 1), update_buffers=update_buffers)
        if gamma < 0:
            raise ValueError(f"gamma must not be negative, not {gamma}")
        if end_momentum is not None and not 0 <= end_momentum < 1:
            raise ValueError(f"end_momentum must be in [0, 1), not {end_momentum}")
        self.gamma = gamma
        self.end_momentum = end_momentum
        self.evaluates = evaluates
        object.__setattr__(self, "student", student)  # bypass nn.Module, which would register a submodule
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Set training mode, unless the teacher stays in evaluation mode."""
        return super().train(mode and not self.evaluates)

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the teacher, without gradients."""
        return self.module(*args, **kwargs)

    def follow(self, optimizers: Iterable[Optimizer]) -> None:
        """Start to follow the student; the Runner calls this when it begins to train.

        Args:
            optimizers: all optimizers of the run.
        """
        if self._num_steps == 0:
            self.update_parameters(self.student)
        trained = {id(parameter) for parameter in self.student.parameters()}
        for optimizer in optimizers:
            if any(id(parameter) in trained for group in optimizer.param_groups for parameter in group["params"]):
                optimizer.register_step_post_hook(lambda *_: self.update_parameters(self.student))

    def _momentum_at(self, steps: int) -> float:
        momentum = self.momentum
        if self.end_momentum is not None:
            hub = MessageHub.get_current_instance()
            progress = min(1.0, hub.get_info("iter", 0) / max(1, hub.get_info("max_iters", 1)))
            momentum = self.end_momentum + (momentum - self.end_momentum) * (math.cos(math.pi * progress) + 1) / 2
        return max(momentum, self.gamma / (self.gamma + steps) if self.gamma else 0.0)


def _tensor_refs(module: nn.Module, persistent_buffers: bool) -> Iterator[tuple[str, _TensorRef]]:
    """Yield the parameters of a module and optionally its persistent buffers, by name; shared tensors only once.

    To reproduce MMEngine, shared tensors are yielded, and so averaged, under each of their names with buffers.
    """
    seen: set[int] = set()
    repeats = persistent_buffers and reproduces_mmengine()
    for prefix, submodule in module.named_modules(remove_duplicate=not repeats):
        registries: list[Mapping[str, Tensor | None]] = [submodule._parameters]
        if persistent_buffers:
            registries.append(submodule._buffers)
        for tensors in registries:
            for name, tensor in tensors.items():
                if tensor is None or id(tensor) in seen or name in submodule._non_persistent_buffers_set:
                    continue
                if not repeats:
                    seen.add(id(tensor))
                yield f"{prefix}.{name}".lstrip("."), _TensorRef(tensors, name)  # type: ignore[arg-type]


def _buffer_refs(module: nn.Module) -> Iterator[tuple[str, _TensorRef]]:
    for prefix, submodule in module.named_modules():
        for name, tensor in submodule._buffers.items():
            if tensor is not None:
                yield f"{prefix}.{name}".lstrip("."), _TensorRef(submodule._buffers, name)


def _group_by_device_and_dtype(
    averaged: Mapping[str, _TensorRef], source: Mapping[str, _TensorRef]
) -> list[_TensorPairs]:
    """Group tensors, since the foreach functions are only fast on lists of one device and dtype."""
    groups: dict[Any, _TensorPairs] = {}
    for name, ref in averaged.items():
        tensor, other = ref.get(), source[name].get()
        sharded = is_sharded(tensor)
        key = (tensor.device, tensor.dtype, other.device, other.dtype, sharded)
        pairs = groups.setdefault(key, _TensorPairs([], [], sharded))
        pairs.averaged.append(ref)
        pairs.source.append(source[name])
    return list(groups.values())


def _tensors_on_one_device(pairs: _TensorPairs) -> tuple[list[Tensor], list[Tensor]]:
    averaged, source = pairs.get()
    if averaged[0].device != source[0].device:
        source = [tensor.to(averaged[0].device) for tensor in source]
    return averaged, source


def _copy(pairs: _TensorPairs) -> None:
    averaged, source = pairs.get()
    torch._foreach_copy_(averaged, source)
