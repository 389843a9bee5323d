"""Change a part of a run while it is running."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trainwright.engine.data.proxy import Proxy
from trainwright.engine.data.several import NamedLoaders, loaders_of
from trainwright.engine.errors import ConfigError, did_you_mean
from trainwright.engine.evaluation.condition import Condition
from trainwright.engine.registry import HOOKS, ROOT_REGISTRIES
from trainwright.engine.run.hook import DataBatch, Hook
from trainwright.engine.run.model_setup import unwrap

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner

_LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


@HOOKS.register_module()
class SwitchHook(Hook):
    """Set an attribute of any part of the run, at an epoch, at an iteration, or when a condition holds.

    If the switch had been applied before a checkpoint was saved, it is applied again on resume. Do not use
    this hook for state that is stored in checkpoints, such as weights and learning rates.

    Data workers, including persistent ones, see a change to their dataset from the next batch on.

    Cost per step: none; 0.3 µs with ``at_iter``; 0.5 µs with a scalar of the training. Reading that synchronizes once.

    Example:
        >>> dict(type="SwitchHook", target="train_loop.val_interval", value=1, at_epoch=90)
        >>> dict(type="SwitchHook", target="train_dataloader.dataset.pipeline", value=[...], at_epoch=15)
        >>> dict(type="SwitchHook", target="model.head.loss", value=dict(type="FocalLoss"), registry="MODELS",
        ...      when=dict(monitor="accuracy/top1", above=90))
        >>> dict(type="SwitchHook", target="train_dataloader.dataset.pipeline", value=[...],
        ...      when=dict(monitor="train/loss", window=200, below=0.1))
        >>> dict(type="SwitchHook", target="model.head.smoothing", value=0.0,
        ...      when=dict(monitor="train/loss", interval=500, plateau=dict(patience=4, min_delta=0.01)))

    Args:
        target: dotted path of the attribute, starting from the runner. A part can also be a list index or a
            dictionary key.
        value: the new value. If the current value is a pipeline, a list of transforms is turned into a
            pipeline of the same class.
        registry: name of the registry to build the value with, such as ``"MODELS"``; by default the value is
            used as is.
        at_epoch: 0-based index of the epoch before which to switch.
        at_iter: 0-based index of the iteration before which to switch.
        when: switch when ``monitor``, a result of the validation or a scalar ``train/…`` of the training, is
            ``above`` or ``below`` a number, or has not improved by more than ``min_delta`` in ``patience`` readings
            (``plateau=dict(patience=…, min_delta=0, rule=None)``, where ``rule`` is ``"greater"`` or ``"less"`` if it
            cannot be inferred). A scalar of the training is read every ``interval`` iterations, 50 by default. Its
            value is the mean over the ranks and the last ``window`` iterations, by default as many as ``interval``.

    Raises:
        ConfigError: not exactly one of ``at_epoch``, ``at_iter`` and ``when`` is set, the registry or the target does
            not exist, ``when`` is wrong, or ``monitor`` does not exist at the first reading.
    """

    condition_argument = "when"

    def __init__(
        self,
        target: str,
        value: Any,
        registry: str | None = None,
        at_epoch: int | None = None,
        at_iter: int | None = None,
        when: Mapping[str, Any] | None = None,
    ) -> None:
        if sum(condition is not None for condition in (at_epoch, at_iter, when)) != 1:
            raise ConfigError(
                f"SwitchHook({target})",
                "exactly one condition is required",
                "at_epoch=…, at_iter=… or when=dict(monitor=…, above=…)",
            )
        if registry is not None and registry not in ROOT_REGISTRIES:
            raise ConfigError(
                "SwitchHook.registry",
                f"unknown registry {registry!r}",
                did_you_mean(registry, ROOT_REGISTRIES),
            )
        self.target = target
        self.value = value
        self.registry = registry
        self.at_epoch = at_epoch
        self.at_iter = at_iter
        self.when = None if when is None else Condition(when, owner="SwitchHook")
        self.applied = False

    def get_triggered_stages(self) -> list[str]:
        """Return the hook points, without those of unused conditions."""
        by_scalar = self.when is not None and self.when.scalar is not None
        unused = {
            "before_train_epoch": self.at_epoch is None,
            "before_train_iter": self.at_iter is None,
            "after_val_epoch": self.when is None or by_scalar,
            "after_train_iter": not by_scalar,
            "before_snapshot": not by_scalar,
        }
        return [stage for stage in super().get_triggered_stages() if not unused.get(stage)]

    def state_dict(self) -> dict[str, Any]:
        """Return whether the switch was applied, and the state of the condition."""
        return {"applied": self.applied, **({} if self.when is None else {"when": self.when.state_dict()})}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the state; :meth:`before_train` applies the switch."""
        self.applied = state["applied"]
        if self.when is not None and "when" in state:
            self.when.load_state_dict(state["when"])

    def before_train(self, runner: "Runner") -> None:
        """Check that the target exists and accepts the value, and apply the switch again in a resumed run."""
        owner, name, _ = _find(runner, self.target)
        while isinstance(owner, Proxy):
            owner = owner._inner
        if self.registry is None and isinstance(getattr(type(owner), str(name), None), property):
            setattr(copy.copy(owner), name, self.value)  # it may refuse the value: better now than hours later
        for begin, end in ((self.at_epoch, runner.max_epochs), (self.at_iter, runner.max_iters)):
            if begin is not None and begin >= end:
                runner.logger.warning(
                    f"{self.target} will never be switched: {begin} is past the end of training ({end})."
                )
        if self.when is not None:
            self.when.before_train(runner)
        if self.applied:
            self.apply(runner)

    def before_train_epoch(self, runner: "Runner") -> None:
        """Apply the switch if it is due at this epoch."""
        if not self.applied and self.at_epoch is not None and runner.epoch >= self.at_epoch:
            self.apply(runner)

    def before_train_iter(self, runner: "Runner", batch_idx: int, data_batch: DataBatch = None) -> None:
        """Apply the switch if it is due at this iteration."""
        if not self.applied and self.at_iter is not None and runner.iter >= self.at_iter:
            self.apply(runner)

    def after_val_epoch(self, runner: "Runner", metrics: dict[str, Any] | None = None) -> None:
        """Apply the switch if the metrics satisfy the condition."""
        if not self.applied and self.when is not None and self.when.holds_after_val(metrics):
            self.apply(runner)

    def after_train_iter(
        self,
        runner: "Runner",
        batch_idx: int,
        data_batch: DataBatch = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Apply the switch if a scalar of the training satisfies the condition."""
        self.before_snapshot(runner)

    def before_snapshot(self, runner: "Runner") -> None:
        """Apply the switch if a scalar of the training satisfies the condition, before the checkpoint."""
        if not self.applied and self.when is not None and self.when.holds_after_iter(runner):
            self.apply(runner)

    def apply(self, runner: "Runner") -> None:
        """Apply the switch."""
        owner, name, current = _find(runner, self.target)
        value = self.value
        if self.registry is not None:
            value = ROOT_REGISTRIES[self.registry].build(value, path=f"SwitchHook({self.target}).value")
        elif hasattr(current, "transforms") and callable(current) and isinstance(value, Sequence):  # a pipeline
            value = type(current)(value)
        if isinstance(owner, Mapping | list):
            owner[name] = value  # type: ignore[index]  # an index for a list, a key for a mapping
        else:
            setattr(owner, name, value)
        loader = self.target.partition(".")[0]
        if loader in _LOADERS:
            _restart_workers(runner, getattr(runner, loader))
        self.applied = True
        runner.logger.info(f"Switched {self.target} to {self.value!r}.")


@HOOKS.register_module()
class PipelineSwitchHook(SwitchHook):
    """Replace the pipeline of the training dataset, such as with one without strong augmentation.

    If the dataset wraps other datasets, the pipelines of all of them are replaced.

    Cost per step: none.

    Args:
        switch_epoch: 0-based index of the epoch before which to switch.
        switch_pipeline: configs of the new transforms.
    """

    def __init__(self, switch_epoch: int, switch_pipeline: Sequence[Any]) -> None:
        super().__init__("train_dataloader.dataset", list(switch_pipeline), at_epoch=switch_epoch)

    def apply(self, runner: "Runner") -> None:
        """Apply the switch."""
        if isinstance(runner.train_dataloader, NamedLoaders):
            hint = "use SwitchHook with target='train_dataloader.NAME.dataset.pipeline'"
            raise ConfigError("PipelineSwitchHook", "there are several training datasets", hint)
        datasets = list(_datasets_with_pipeline(runner.train_dataloader.dataset))
        if not datasets:
            raise ConfigError("PipelineSwitchHook", "the training dataset has no pipeline", "use SwitchHook instead")
        for dataset in datasets:
            dataset.pipeline = type(dataset.pipeline)(self.value)
        _restart_workers(runner, runner.train_dataloader)
        self.applied = True
        runner.logger.info(f"Switched the training pipeline to {self.value!r}.")


def _datasets_with_pipeline(dataset: Any) -> Iterator[Any]:
    """Yield the dataset, or the datasets that it wraps, that have a pipeline."""
    if hasattr(dataset, "pipeline"):
        yield dataset
    elif hasattr(dataset, "dataset"):
        yield from _datasets_with_pipeline(dataset.dataset)
    else:
        for part in getattr(dataset, "datasets", ()):
            yield from _datasets_with_pipeline(part)


def _restart_workers(runner: "Runner", loader: Any) -> None:
    """Restart the workers, because each has its own copy of the dataset."""
    for each in loaders_of(loader, "").values():
        if getattr(each, "_iterator", None) is not None:
            each._iterator = None
    if loader is runner.train_dataloader:
        runner.train_loop.cursor.reopen()


def _find(root: Any, target: str) -> tuple[Any, Any, Any]:
    """Resolve a dotted path.

    Returns:
        The object that the last part belongs to, the last part as attribute, key or index, and the value.
    """
    owner: Any = None
    value: Any = root
    key: str | int = ""
    path = "runner"
    for part in target.split("."):
        owner, key = value, part
        if isinstance(owner, list | tuple) and part.isdecimal() and int(part) < len(owner):
            key = int(part)
            value = owner[int(part)]
        elif isinstance(owner, Mapping) and part in owner:
            value = owner[part]
        else:
            owner = owner if hasattr(owner, part) else unwrap(owner)
            if not hasattr(owner, part):
                names = [name for name in dir(owner) if not name.startswith("_")]
                raise ConfigError(f"SwitchHook({target})", f"{path} has no {part!r}", did_you_mean(part, names))
            value = getattr(owner, part)
        path = f"{path}.{part}"
    return owner, key, value
