"""Several optimizer wrappers in one."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, NoReturn

import torch
import torch._functorch.config
from torch import Tensor, nn

from trainwright.engine.errors import CheckpointError, ConfigError, TrainingError, did_you_mean
from trainwright.engine.optim.state_layout import FROM_WEIGHTS
from trainwright.engine.optim.wrapper import OptimWrapper
from trainwright.engine.registry import OPTIM_WRAPPERS
from trainwright.engine.strategy import shards


def _of_one_wrapper(name: str) -> Callable[..., NoReturn]:
    """Return a method that raises: only the model knows which wrapper to use."""

    def fail(wrappers: "OptimWrapperDict", *args: Any, **kwargs: Any) -> NoReturn:
        names = ", ".join(wrappers.optim_wrappers)
        raise NotImplementedError(f"call {name} on a single optimizer wrapper: optim_wrapper[name], one of {names}")

    return fail


@OPTIM_WRAPPERS.register_module()
class OptimWrapperDict:
    """A dict of optimizer wrappers, for models that update their parts separately, such as GANs.

    A model with its own ``train_step`` selects a wrapper by name, as in
    ``optim_wrapper["generator"].update_params(loss)``. :meth:`BaseModel.train_step` calls :meth:`update_params` of the
    dict, which handles all wrappers. Saving, loading, ``zero_grad`` and learning rates cover all wrappers.

    Args:
        **optim_wrappers: the wrappers.

    Attributes:
        intervals: for :meth:`update_params`, the number of iterations between two losses of a wrapper, by its name; 1
            for those not named.

    Raises:
        TypeError: one of them is not an :class:`OptimWrapper`.
    """

    def __init__(self, **optim_wrappers: OptimWrapper) -> None:
        for name, wrapper in optim_wrappers.items():
            if not isinstance(wrapper, OptimWrapper):
                raise TypeError(f"OptimWrapperDict expects optimizer wrappers, not {name}={wrapper!r}")
            wrapper.checks_of_gradients = 100
        self.optim_wrappers = optim_wrappers
        self.intervals: dict[str, int] = {}
        self._done = 0  # iterations
        self._run: tuple[nn.Module, int] | None = None  # until the first call of update_params
        self._counts_iterations = False

    backward = _of_one_wrapper("backward")
    step = _of_one_wrapper("step")
    accumulative_counts = property(_of_one_wrapper("accumulative_counts"), _of_one_wrapper("accumulative_counts"))

    def update_params(self, losses: Mapping[str, Tensor]) -> None:
        """Propagate each loss back to the parameters of its own wrapper, then update the parameters that are due.

        The losses may share a graph, since no parameter changes before all of them have been propagated back: all
        wrappers update from the same weights. A wrapper whose interval is ``n`` takes part in every n-th iteration. Its
        accumulation window and the end of the run are counted in the iterations that it takes part in.

        Args:
            losses: the scalar loss of each wrapper, by its name.

        Raises:
            NotImplementedError: there is a single loss.
            ConfigError: the parameters are sharded.
            TrainingError: a loss does not depend on any parameter of its wrapper.
        """
        if not isinstance(losses, Mapping):
            _of_one_wrapper("update_params")(self)
        if self._run is not None:
            self._begin_counting(*self._run)
        now = self._done + 1
        due = {name: one for name, one in self.optim_wrappers.items() if now % self.intervals.get(name, 1) == 0}
        last = next(reversed(due), None)
        for name, wrapper in due.items():
            params = [param for param in wrapper._params() if param.requires_grad]
            wrapper.backward(wrapper.scale_loss(losses[name]), inputs=params, retain_graph=name != last)
            if all(param.grad is None for param in params):
                raise TrainingError(f"the loss of {name!r} does not depend on any of its parameters")
        self._done = now
        for wrapper in due.values():
            wrapper.finish_update()

    def optim_context(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Return the context for a forward pass that computes the losses of all wrappers.

        Raises:
            ConfigError: the wrappers cast to different dtypes.
        """
        first, *others = self.optim_wrappers.values()
        for wrapper in others:
            if _cast_dtype(wrapper) != _cast_dtype(first):
                raise ConfigError(
                    "optim_wrapper",
                    "the optimizer wrappers differ in mixed precision, but one forward pass computes all losses",
                    "use the same type and dtype for all, or write a train_step that enters the optim_context of each",
                )
        if others and self._run is not None:
            # A forward pass that is compiled from now on keeps its buffers for several backward passes.
            torch._functorch.config.donated_buffer = False
        return first.optim_context(model)

    def zero_grad(self, **kwargs: Any) -> None:
        """Clear the gradients of all wrappers."""
        for wrapper in self.optim_wrappers.values():
            wrapper.zero_grad(**kwargs)

    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        """Set the start and end counts of a run, for :meth:`update_params`.

        If the model selects a wrapper itself, it decides how often each wrapper steps. Their counts then do not change.
        """
        self._done, self._run = init_counts, (model, max_counts)

    def _begin_counting(self, model: nn.Module, max_counts: int) -> None:
        for param in (param for one in self.optim_wrappers.values() for param in one._params()):
            if shards.is_sharded(param):
                message = "a model without its own train_step, but with several optimizers, cannot be sharded"
                raise ConfigError("strategy", message, "use 'DDP', or write a train_step")
        for name, wrapper in self.optim_wrappers.items():
            interval = self.intervals.get(name, 1)
            done = self._done // interval
            begin = wrapper.inner_count if wrapper._window_is_restored else done
            wrapper.initialize_count_status(model, begin, begin + max_counts // interval - done)
        self._run, self._counts_iterations = None, True

    def shift_counts(self, by: int) -> None:
        """Do nothing: :meth:`initialize_count_status` follows."""

    def has_completed(self, losses: int) -> bool:
        """Return whether exactly ``losses`` iterations are done and no loss is waiting for its update.

        False if the model selects a wrapper itself, since the number of losses per iteration is then unknown.
        """
        whole = all(wrapper.should_update() for wrapper in self.optim_wrappers.values())
        return self._counts_iterations and self._done == losses and whole

    @property
    def param_groups(self) -> dict[str, list[dict[str, Any]]]:
        """The parameter groups by wrapper name."""
        return {name: wrapper.param_groups for name, wrapper in self.optim_wrappers.items()}

    @property
    def defaults(self) -> dict[str, Any]:
        """The optimizers' default settings by wrapper name."""
        return {name: wrapper.defaults for name, wrapper in self.optim_wrappers.items()}

    def get_lr(self) -> dict[str, list[float]]:
        """Return ``{name}.lr`` and ``{name}.base_lr`` of all wrappers."""
        return {f"{name}.{key}": rates for name, one in self.items() for key, rates in one.get_lr().items()}

    def get_momentum(self) -> dict[str, list[float]]:
        """Return ``{name}.momentum`` of all wrappers."""
        return {f"{name}.{key}": values for name, one in self.items() for key, values in one.get_momentum().items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the states by wrapper name."""
        return {name: wrapper.state_dict() for name, wrapper in self.optim_wrappers.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the states by wrapper name.

        Raises:
            CheckpointError: the names differ, or a state does not fit its optimizer.
        """
        if set(state_dict) != set(self.optim_wrappers):
            found = "one optimizer" if "param_groups" in state_dict else f"the optimizers {sorted(state_dict)}"
            raise CheckpointError(
                f"the checkpoint contains {found}, but this run has {sorted(self.optim_wrappers)}: resume with the "
                f"original optim_wrapper, or {FROM_WEIGHTS}"
            )
        for name, state in state_dict.items():
            try:
                self.optim_wrappers[name].load_state_dict(state)
            except CheckpointError as error:
                raise CheckpointError(f"optim_wrapper.{name}: {error}") from error

    def items(self) -> Iterator[tuple[str, OptimWrapper]]:
        yield from self.optim_wrappers.items()

    def keys(self) -> Iterator[str]:
        yield from self.optim_wrappers

    def values(self) -> Iterator[OptimWrapper]:
        yield from self.optim_wrappers.values()

    def __getitem__(self, name: str) -> OptimWrapper:
        if name not in self.optim_wrappers:
            hint = did_you_mean(name, self.optim_wrappers) or f"available: {', '.join(self.optim_wrappers)}"
            raise KeyError(f"no optimizer wrapper {name!r}: {hint}")
        return self.optim_wrappers[name]

    def __contains__(self, name: str) -> bool:
        return name in self.optim_wrappers

    def __len__(self) -> int:
        return len(self.optim_wrappers)

    def __repr__(self) -> str:
        return "".join(f"name: {name}\n{wrapper!r}" for name, wrapper in self.optim_wrappers.items())


OptimWrapper.register(OptimWrapperDict)  # a real subclass in MMEngine
AnyOptimWrapper = OptimWrapper | OptimWrapperDict


def _cast_dtype(wrapper: OptimWrapper) -> torch.dtype | None:
    """Return the dtype that mixed precision casts to, None without it."""
    if not hasattr(wrapper, "cast_dtype"):
        return None
    dtype = wrapper.cast_dtype or torch.get_autocast_dtype(wrapper.device_type)  # type: ignore[attr-defined]
    return None if dtype is torch.float32 else dtype
