"""Running averages of a model's weights."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trainwright.engine.records.logger import get_logger
from trainwright.engine.registry import MODELS


class _Slot(NamedTuple):
    """Where a tensor of a module is kept, so that one that is put there later is found too."""

    tensors: dict[str, Any]
    name: str

    def get(self) -> Tensor:
        return self.tensors[self.name]  # type: ignore[no-any-return]


class _Pairs(NamedTuple):
    """Tensors of the average and of the source, of one device and type."""

    averaged: list[_Slot]
    source: list[_Slot]


class BaseAveragedModel(nn.Module):
    """A copy of a model that holds a running average of its weights.

    All tensors of one type are averaged in one call. In the state dict the copy's names begin with
    ``module.``, and ``steps`` is the number of updates. A subclass implements :meth:`avg_func`, and
    :meth:`avg_foreach` to be fast.

    Args:
        model: the model to average.
        interval: number of updates from one average to the next; those between only copy buffers.
        device: where the copy is kept; with the model if None.
        update_buffers: average the buffers too, the floating ones; if False they are copied at every update.

    Raises:
        ValueError: ``interval`` is not positive.
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
        self.module = deepcopy(model).requires_grad_(False)
        if device is not None:
            self.module = self.module.to(device)
        self.interval = interval
        self.update_buffers = update_buffers
        self.register_buffer("steps", torch.tensor(0, dtype=torch.long, device=device))
        # Counted in Python too: reading the buffer would wait for the device.
        self._num_steps = 0
        self._source: nn.Module | None = None
        self._averages: list[_Pairs] = []
        self._copies: list[_Pairs] = []

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "avg_func" in vars(cls) and "avg_foreach" not in vars(cls):
            # The fast version that it inherits computes something else.
            cls.avg_foreach = BaseAveragedModel.avg_foreach  # type: ignore[method-assign]

    def avg_func(self, averaged_param: Tensor, source_param: Tensor, steps: int) -> None:
        """Update one averaged tensor in place.

        Args:
            averaged_param: the average.
            source_param: the model's tensor, on the same device.
            steps: number of updates so far.
        """
        raise NotImplementedError

    def avg_foreach(self, averaged_params: list[Tensor], source_params: list[Tensor], steps: int) -> None:
        """Update many averaged tensors in place, to the same bits as :meth:`avg_func` each."""
        for averaged, source in zip(averaged_params, source_params):
            self.avg_func(averaged, source, steps)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the averaged model."""
        return self.module(*args, **kwargs)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take a model's weights into the average; the first time they are copied.

        Args:
            model: the model that is averaged.

        Raises:
            ValueError: the model has other names than the average.
        """
        if model is not self._source:
            self._pair_with(model)
        if self._num_steps == 0:
            for pairs in self._averages:
                _copy(pairs)
        elif self._num_steps % self.interval == 0:
            for pairs in self._averages:
                averaged, source = _tensors(pairs)
                if averaged[0].is_floating_point():
                    self.avg_foreach(averaged, source, self._num_steps)
        for pairs in self._copies:
            _copy(pairs)
        self._num_steps += 1
        self.steps.add_(1)

    def _pair_with(self, model: nn.Module) -> None:
        """Find the tensors that belong together, once: walking a model takes time."""
        averaged = dict(_slots(self.module, persistent_buffers=self.update_buffers))
        source = dict(_slots(model, persistent_buffers=self.update_buffers))
        if missing := averaged.keys() - source.keys():
            raise ValueError(f"{type(model).__name__} is not the model that is averaged: it has no {min(missing)}")
        self._averages = _group(averaged, source)
        self._copies = []
        if not self.update_buffers:
            own, other = dict(_buffer_slots(self.module)), dict(_buffer_slots(model))
            self._copies = _group(own, {name: other[name] for name in own})
        object.__setattr__(self, "_source", model)  # not a submodule

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
    """The plain mean of all weights so far, after Izmailov et al. (2018), https://arxiv.org/abs/1803.05407.

    Args:
        model: the model to average.
        interval: number of updates from one average to the next.
        device: where the copy is kept; with the model if None.
        update_buffers: average the buffers too.
    """

    def avg_func(self, averaged_param: Tensor, source_param: Tensor, steps: int) -> None:
        averaged_param.add_(source_param - averaged_param, alpha=1 / (steps // self.interval + 1))

    def avg_foreach(self, averaged_params: list[Tensor], source_params: list[Tensor], steps: int) -> None:
        difference = torch._foreach_sub(source_params, averaged_params)
        torch._foreach_add_(averaged_params, difference, alpha=1 / (steps // self.interval + 1))


@MODELS.register_module()
class ExponentialMovingAverage(BaseAveragedModel):
    """The average ``(1 - momentum) * average + momentum * weights``.

    Args:
        model: the model to average.
        momentum: share of the new weights, in (0, 1), usually small.
        interval: number of updates from one average to the next.
        device: where the copy is kept; with the model if None.
        update_buffers: average the buffers too.

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
            raise ValueError(f"momentum must lie in (0, 1), not at {momentum}")
        if momentum > 0.5:
            get_logger().warning(
                "momentum=%s is the share of the new weights in the average, and unusually large: "
                "for a decay of 0.999 write momentum=0.001",
                momentum,
            )
        self.momentum = momentum

    def avg_func(self, averaged_param: Tensor, source_param: Tensor, steps: int) -> None:
        averaged_param.lerp_(source_param, self.momentum)

    def avg_foreach(self, averaged_params: list[Tensor], source_params: list[Tensor], steps: int) -> None:
        torch._foreach_lerp_(averaged_params, source_params, self.momentum)


@MODELS.register_module()
class MomentumAnnealingEMA(ExponentialMovingAverage):
    """An exponential average whose momentum starts large: ``max(momentum, gamma / (gamma + steps))``.

    Args:
        model: the model to average.
        momentum: smallest share of the new weights, in (0, 1).
        gamma: how slowly the momentum falls, positive.
        interval: number of updates from one average to the next.
        device: where the copy is kept; with the model if None.
        update_buffers: average the buffers too.

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


def _slots(module: nn.Module, persistent_buffers: bool) -> Iterator[tuple[str, _Slot]]:
    """The parameters of a module by name, and its persistent buffers; what is shared comes once."""
    seen: set[int] = set()
    for prefix, submodule in module.named_modules():
        held: list[Mapping[str, Tensor | None]] = [submodule._parameters]
        if persistent_buffers:
            held.append(submodule._buffers)
        for tensors in held:
            for name, tensor in tensors.items():
                if tensor is None or id(tensor) in seen or name in submodule._non_persistent_buffers_set:
                    continue
                seen.add(id(tensor))
                yield f"{prefix}.{name}".lstrip("."), _Slot(tensors, name)  # type: ignore[arg-type]


def _buffer_slots(module: nn.Module) -> Iterator[tuple[str, _Slot]]:
    for prefix, submodule in module.named_modules():
        for name, tensor in submodule._buffers.items():
            if tensor is not None:
                yield f"{prefix}.{name}".lstrip("."), _Slot(submodule._buffers, name)


def _group(averaged: Mapping[str, _Slot], source: Mapping[str, _Slot]) -> list[_Pairs]:
    """Put tensors of one device and type together: only such a list is computed in one go."""
    groups: dict[Any, _Pairs] = {}
    for name, slot in averaged.items():
        tensor, other = slot.get(), source[name].get()
        pairs = groups.setdefault((tensor.device, tensor.dtype, other.device, other.dtype), _Pairs([], []))
        pairs.averaged.append(slot)
        pairs.source.append(source[name])
    return list(groups.values())


def _tensors(pairs: _Pairs) -> tuple[list[Tensor], list[Tensor]]:
    averaged = [slot.get() for slot in pairs.averaged]
    source = [slot.get() for slot in pairs.source]
    if averaged[0].device != source[0].device:
        source = [tensor.to(averaged[0].device) for tensor in source]
    return averaged, source


def _copy(pairs: _Pairs) -> None:
    averaged = [slot.get() for slot in pairs.averaged]
    torch._foreach_copy_(averaged, [slot.get() for slot in pairs.source])
