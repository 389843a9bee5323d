"""What a Runner tells about itself: counters, loops and their parts, settings."""

from collections.abc import Mapping
from typing import Any

from trainwright.engine.checkpoints.start import StartingPoint
from trainwright.engine.data.several import loaders_of
from trainwright.engine.data.traits import metainfo_of
from trainwright.engine.evaluation.evaluator import Evaluator
from trainwright.engine.run.hook import Hook
from trainwright.engine.run.hook_list import HookList
from trainwright.engine.run.model_setup import unwrap
from trainwright.engine.run.state import RunState


class ScopeName(str):
    """The name of a registry scope, also with the attribute that MMEngine's object for a scope has."""

    @property
    def scope_name(self) -> str:
        """The name."""
        return str(self)


def _loop_or_cfg(mode: str) -> property:
    """Return the property of a loop, or what it is built from, that code copied from MMEngine reads and sets."""

    def get(runner: "Attributes") -> Any:
        return runner._loops.get(mode, getattr(runner, f"_{mode}_cfg"))

    def set(runner: "Attributes", loop: Any) -> None:
        runner._loops[mode] = loop

    return property(get, set)


class Attributes:
    """The read-only attributes of a Runner, with the names of MMEngine's."""

    model: Any
    start: StartingPoint
    state: RunState
    world_size: int
    _default_scope: str | None
    _deterministic: bool
    _hooks: HookList
    _launcher: str
    _loops: dict[str, Any]
    _test_cfg: Any
    _train_cfg: Any
    _val_cfg: Any

    def _loop(self, mode: str) -> Any:
        """Return the loop of a mode, built on first use."""
        raise NotImplementedError

    @property
    def hooks(self) -> list[Hook]:
        """The hooks, in the order in which they are called."""
        return self._hooks.hooks

    def get_hooks_info(self) -> str:
        """Return a table for the log: each hook point with its hooks, in order."""
        return self._hooks.table()

    @property
    def epoch(self) -> int:
        """0-based index of the epoch in progress."""
        return self.state.epoch

    @property
    def iter(self) -> int:
        """0-based index of the training iteration in progress."""
        return self.state.iter

    @property
    def max_epochs(self) -> int:
        """The number of epochs to train."""
        return self._loop("train").max_epochs  # type: ignore[no-any-return]

    @property
    def max_iters(self) -> int:
        """The number of iterations to train."""
        return self._loop("train").max_iters  # type: ignore[no-any-return]

    @property
    def launcher(self) -> str:
        """How the processes of the run were launched; ``none`` for a single one."""
        return self._launcher

    @property
    def distributed(self) -> bool:
        """Whether several processes train together."""
        return self.world_size > 1

    @property
    def deterministic(self) -> bool:
        """Whether only deterministic algorithms are used."""
        return self._deterministic

    @property
    def model_name(self) -> str:
        """The class name of the model."""
        return type(unwrap(self.model)).__name__

    @property
    def default_scope(self) -> ScopeName | None:
        """The registry scope in which names are looked up first."""
        return None if self._default_scope is None else ScopeName(self._default_scope)

    @property
    def _resume(self) -> bool:
        """Whether the run continues another one, for hooks from OpenMMLab's libraries."""
        return self.start.resumes

    @property
    def has_val(self) -> bool:
        """Whether the run validates."""
        return self._val_cfg is not None

    _train_loop, _val_loop, _test_loop = map(_loop_or_cfg, ("train", "val", "test"))

    @property
    def train_loop(self) -> Any:
        """The training loop, built on first use; None if the run does not train."""
        return None if self._train_cfg is None else self._loop("train")

    @property
    def val_loop(self) -> Any:
        """The validation loop, built on first use; None if the run does not validate."""
        return None if self._val_cfg is None else self._loop("val")

    @property
    def test_loop(self) -> Any:
        """The test loop, built on first use; None if the run does not test."""
        return None if self._test_cfg is None else self._loop("test")

    @property
    def train_dataloader(self) -> Any:
        """The loader of the training loop."""
        return self._loop("train").dataloader

    @property
    def val_dataloader(self) -> Any:
        """The loader of the validation loop."""
        return self._loop("val").dataloader

    @property
    def test_dataloader(self) -> Any:
        """The loader of the test loop."""
        return self._loop("test").dataloader

    @property
    def val_evaluator(self) -> Evaluator:
        """The evaluator of the validation loop."""
        return self._loop("val").evaluator  # type: ignore[no-any-return]

    @property
    def test_evaluator(self) -> Evaluator:
        """The evaluator of the test loop."""
        return self._loop("test").evaluator  # type: ignore[no-any-return]

    @property
    def val_interval(self) -> int:
        """Number of epochs (or iterations) between validations."""
        return self._loop("train").val_interval  # type: ignore[no-any-return]

    @property
    def val_begin(self) -> int:
        """First epoch (or iteration), counted from 1, after which to validate."""
        return self._loop("train").val_begin  # type: ignore[no-any-return]

    @property
    def dataset_meta(self) -> Mapping[str, Any] | None:
        """The meta information of the training dataset, such as its classes; of the first that has any of several."""
        loaders = loaders_of(getattr(self._loops.get("train"), "dataloader", None), "")
        return next(filter(None, map(metainfo_of, loaders.values())), None)
