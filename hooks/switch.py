"""Changes a part of a run while it is running."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trainwright.engine.errors import ConfigError, did_you_mean
from trainwright.engine.evaluation.monitor import score_of
from trainwright.engine.registry import HOOKS, ROOT_REGISTRIES
from trainwright.engine.run.hook import DataBatch, Hook
from trainwright.engine.run.model_setup import unwrap

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner

_LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


@HOOKS.register_module()
class SwitchHook(Hook):
    """Gives an attribute of a part of the run another value: at an epoch, an iteration, or on a result.

    A resumed run has the switch applied if the checkpoint had. What a checkpoint holds itself, such as
    weights and learning rates, is not for this hook.

    Data workers see a change of their dataset at the next batch, also persistent ones.

    Cost per step: none; with ``at_iter`` 0.3 µs.

    Example:
        >>> dict(type="SwitchHook", target="train_loop.val_interval", value=1, at_epoch=90)
        >>> dict(type="SwitchHook", target="train_dataloader.dataset.pipeline", value=[...], at_epoch=15)
        >>> dict(type="SwitchHook", target="model.head.loss", value=dict(type="FocalLoss"), registry="MODELS",
        ...      when=dict(monitor="accuracy/top1", above=90))

    Args:
        target: dotted path from the runner; a number is an index, and in a dictionary a name is a key.
        value: the new value. In place of a pipeline, a list of transforms becomes a pipeline of the same
            class.
        registry: name of the registry that builds the value from its config, such as ``"MODELS"``.
        at_epoch: apply before the epoch of this 0-based index.
        at_iter: apply before the iteration of this 0-based index.
        when: ``dict(monitor=…, above=…)`` or ``below=…``: apply after the first validation whose result is
            so.

    Raises:
        ConfigError: not exactly one of ``at_epoch``, ``at_iter`` and ``when``; no such registry; no such
            target.
    """

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
                "needs exactly one condition",
                "at_epoch=…, at_iter=… or when=dict(monitor=…, above=…)",
            )
        if registry is not None and registry not in ROOT_REGISTRIES:
            raise ConfigError(
                "SwitchHook.registry",
                f"there is no registry {registry!r}",
                did_you_mean(registry, ROOT_REGISTRIES),
            )
        self.target = target
        self.value = value
        self.registry = registry
        self.at_epoch = at_epoch
        self.at_iter = at_iter
        self.when = _checked_condition(when)
        self.applied = False

    def get_triggered_stages(self) -> list[str]:
        """Returns the points it acts at: those of its condition."""
        unused = {
            "before_train_epoch": self.at_epoch is None,
            "before_train_iter": self.at_iter is None,
            "after_val_epoch": self.when is None,
        }
        return [stage for stage in super().get_triggered_stages() if not unused.get(stage)]

    def state_dict(self) -> dict[str, bool]:
        """Returns whether the switch was applied."""
        return {"applied": self.applied}

    def load_state_dict(self, state: dict[str, bool]) -> None:
        """Takes over what :meth:`state_dict` returned; :meth:`before_train` applies the switch."""
        self.applied = state["applied"]

    def before_train(self, runner: "Runner") -> None:
        """Checks that the target exists, and applies the switch again in a resumed run."""
        _find(runner, self.target)
        for begin, end in ((self.at_epoch, runner.max_epochs), (self.at_iter, runner.max_iters)):
            if begin is not None and begin >= end:
                runner.logger.warning(
                    f"{self.target} is never switched: {begin} is beyond the end of the training, {end}."
                )
        if self.applied:
            self.apply(runner)

    def before_train_epoch(self, runner: "Runner") -> None:
        """Applies the switch, if this is the epoch."""
        if not self.applied and self.at_epoch is not None and runner.epoch >= self.at_epoch:
            self.apply(runner)

    def before_train_iter(self, runner: "Runner", batch_idx: int, data_batch: DataBatch = None) -> None:
        """Applies the switch, if this is the iteration."""
        if not self.applied and self.at_iter is not None and runner.iter >= self.at_iter:
            self.apply(runner)

    def after_val_epoch(self, runner: "Runner", metrics: dict[str, Any] | None = None) -> None:
        """Applies the switch, if the results say so."""
        if self.applied or self.when is None:
            return
        metrics, monitor = metrics or {}, self.when["monitor"]
        if monitor not in metrics:  # the name in the message hub will do, too
            monitor = monitor.removeprefix("val/")
        score = score_of(metrics, monitor, owner="SwitchHook.when.monitor")
        if score is not None and (score > self.when["above"] if "above" in self.when else score < self.when["below"]):
            self.apply(runner)

    def apply(self, runner: "Runner") -> None:
        """Applies the switch."""
        owner, name, current = _find(runner, self.target)
        value = self.value
        if self.registry is not None:
            value = ROOT_REGISTRIES[self.registry].build(value, path=f"SwitchHook({self.target}).value")
        elif _is_pipeline(current) and isinstance(value, Sequence):
            value = type(current)(value)
        if isinstance(owner, Mapping | list):
            owner[name] = value  # type: ignore[index]  # a list has an index, a mapping a key
        else:
            setattr(owner, name, value)
        loader = self.target.partition(".")[0]
        if loader in _LOADERS:
            _restart_workers(runner, getattr(runner, loader))
        self.applied = True
        runner.logger.info(f"Switched {self.target} to {self.value!r}.")


@HOOKS.register_module()
class PipelineSwitchHook(SwitchHook):
    """Switches the training data to another pipeline of transforms, such as one without strong augmentation.

    In a dataset that wraps others, the pipelines of all of them are switched.

    Cost per step: none.

    Args:
        switch_epoch: 0-based index of the epoch before which to switch.
        switch_pipeline: configs of the transforms.
    """

    def __init__(self, switch_epoch: int, switch_pipeline: Sequence[Any]) -> None:
        super().__init__("train_dataloader.dataset", list(switch_pipeline), at_epoch=switch_epoch)

    def apply(self, runner: "Runner") -> None:
        """Applies the switch."""
        datasets = list(_with_pipeline(runner.train_dataloader.dataset))
        if not datasets:
            raise ConfigError("PipelineSwitchHook", "the training dataset has no pipeline", "use SwitchHook instead")
        for dataset in datasets:
            dataset.pipeline = type(dataset.pipeline)(self.value)
        _restart_workers(runner, runner.train_dataloader)
        self.applied = True
        runner.logger.info(f"Switched the training pipeline to {self.value!r}.")


def _with_pipeline(dataset: Any) -> Iterator[Any]:
    """Yields the datasets with a pipeline that a dataset is made of."""
    if hasattr(dataset, "pipeline"):
        yield dataset
    elif hasattr(dataset, "dataset"):
        yield from _with_pipeline(dataset.dataset)
    else:
        for part in getattr(dataset, "datasets", ()):
            yield from _with_pipeline(part)


def _restart_workers(runner: "Runner", loader: Any) -> None:
    """Makes workers, which have copies of the dataset, begin anew with the dataset as it is now."""
    if getattr(loader, "_iterator", None) is not None:
        loader._iterator = None
    if loader is runner.train_dataloader:
        runner.train_loop.cursor.reopen()


def _is_pipeline(value: Any) -> bool:
    return hasattr(value, "transforms") and callable(value)


def _find(root: Any, target: str) -> tuple[Any, Any, Any]:
    """Returns what owns the end of a dotted path, the end as attribute, key or index, and the value there."""
    owner: Any = None
    here: Any = root
    key: str | int = ""
    walked = "runner"
    for part in target.split("."):
        owner, key = here, part
        if isinstance(owner, list | tuple) and part.isdecimal() and int(part) < len(owner):
            key = int(part)
            here = owner[int(part)]
        elif isinstance(owner, Mapping) and part in owner:
            here = owner[part]
        else:
            owner = owner if hasattr(owner, part) else unwrap(owner)
            if not hasattr(owner, part):
                names = [name for name in dir(owner) if not name.startswith("_")]
                raise ConfigError(f"SwitchHook({target})", f"{walked} has no {part!r}", did_you_mean(part, names))
            here = getattr(owner, part)
        walked = f"{walked}.{part}"
    return owner, key, here


def _checked_condition(when: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if when is None:
        return None
    if set(when) not in ({"monitor", "above"}, {"monitor", "below"}):
        raise ConfigError(
            "SwitchHook.when",
            f"{dict(when)} is no condition",
            "dict(monitor=…, above=…) or dict(monitor=…, below=…)",
        )
    return dict(when)
