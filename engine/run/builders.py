"""The methods of a Runner that build its parts. A subclass may override each of them."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import nn
from torch.optim import Optimizer

from trainwright.engine import distributed
from trainwright.engine.accelerator import has_own_memory
from trainwright.engine.building import origin_of, resolve
from trainwright.engine.config.config import Config
from trainwright.engine.data.several import NamedLoaders, build_dataloaders
from trainwright.engine.errors import ConfigError
from trainwright.engine.evaluation.evaluator import Evaluator
from trainwright.engine.optim.constructor import build_optim_wrapper
from trainwright.engine.optim.fine_tuning import missing_weights
from trainwright.engine.optim.rules import OneCycleParamScheduler
from trainwright.engine.optim.schedulers import build_param_scheduler
from trainwright.engine.optim.wrapper import OptimWrapper
from trainwright.engine.parts import (
    EVALUATOR,
    LOG_PROCESSOR,
    MODES,
    TEST_LOOP,
    TRAIN_LOOP,
    VAL_LOOP,
    VISUALIZER,
    contradicts_by_epoch,
    setting,
)
from trainwright.engine.records.log_processor import num_batches
from trainwright.engine.records.logger import MMLogger
from trainwright.engine.records.message_hub import MessageHub
from trainwright.engine.registry import LOOPS
from trainwright.engine.run.base_loop import BaseLoop
from trainwright.engine.run.custom_loops import CustomLoopHook
from trainwright.engine.run.device_settings import DeviceSettings
from trainwright.engine.run.hook import Hook
from trainwright.engine.run.hook_list import HookList, build_hook, configured_hooks
from trainwright.engine.run.model_setup import build_model
from trainwright.engine.run.state import RunState
from trainwright.engine.run.train_loops import TrainLoop
from trainwright.engine.signatures import accepted
from trainwright.engine.strategy.base import Strategy, build_strategy

P = ParamSpec("P")
R = TypeVar("R")


class also_on_class:
    """Decorator of a method that can also be called on its class; ``self`` is then None."""

    def __init__(self, method: Callable[Concatenate[Any, P], R]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return partial(self._method, instance)


class Builders:
    """The builders of a Runner, with the names and arguments of MMEngine's.

    Each accepts a config, or the part itself, which it returns. The Runner calls them when a part is first needed.
    """

    cfg: Config
    device: torch.device
    experiment_name: str
    log_dir: str
    logger: MMLogger
    model: Any
    optim_wrapper: Any
    param_schedulers: Any
    seed: int
    start: Any
    state: RunState
    strategy: Strategy
    timestamp: str
    train_loop: Any
    _building: str = "train"  # the mode whose loop is being built
    auto_scale_lr: Mapping[str, Any] | None
    _data_preprocessor: Any
    _device_settings: DeviceSettings
    _hooks: HookList
    _optim_wrapper: Any
    _param_scheduler: Any
    _randomness_cfg: dict[str, Any]
    _sources: tuple[Any, Any]
    _train_cfg: Any

    def _as_current(self) -> AbstractContextManager[None]:
        raise NotImplementedError

    def build_logger(self, log_level: int | str = "INFO", log_file: str | None = None, **options: Any) -> MMLogger:
        """Build the logger of the run.

        Args:
            log_level: the lowest level that is logged.
            log_file: its file; by default, in the log folder of the run.
            **options: further arguments of ``MMLogger``.
        """
        log_file = log_file or str(Path(self.log_dir, f"{self.timestamp}.log"))
        return MMLogger(self.experiment_name, log_level=log_level, log_file=log_file, **options)

    def build_message_hub(self, message_hub: Mapping[str, Any] | None = None) -> MessageHub:
        """Build the message hub of the run; ``message_hub`` may set its ``name``."""
        return MessageHub(**{"name": self.experiment_name, **(message_hub or {})})

    def build_log_processor(self, log_processor: Any = None) -> Any:
        """Build the log processor."""
        cfg = {} if log_processor is None else log_processor
        return LOG_PROCESSOR.build(cfg, by_epoch=trains_by_epoch(self._train_cfg))

    def build_visualizer(self, visualizer: Any = None) -> Any:
        """Build the visualizer, which by default writes to the log folder."""
        return VISUALIZER.build(
            {} if visualizer is None else visualizer,
            name=self.experiment_name, save_dir=self.log_dir, vis_backends=[{"type": "LocalVisBackend"}],
        )  # fmt: skip

    def build_model(self, model: nn.Module | Mapping[str, Any]) -> nn.Module:
        """Build the model, which gets ``data_preprocessor`` of the run unless its config has one."""
        return build_model(model, self._data_preprocessor, weights_follow=any(self._sources))

    def wrap_model(self, model_wrapper_cfg: Mapping[str, Any] | None, model: nn.Module) -> nn.Module:
        """Move the model to its device, and distribute or wrap it as the strategy of the run does.

        Args:
            model_wrapper_cfg: the config of the wrapper in distributed training; None for that of the run.
            model: the model.
        """
        strategy = self.strategy
        if model_wrapper_cfg is not None and model_wrapper_cfg != setting(self.cfg, "model_wrapper_cfg"):
            strategy = build_strategy({**self.cfg, "model_wrapper_cfg": model_wrapper_cfg})
        return strategy.place(model, self.device, self._device_settings.channels_last)

    @also_on_class
    def build_dataloader(
        self,
        dataloader: Any,
        seed: int | None = None,
        diff_rank_seed: bool | None = None,
        mode: str | None = None,
    ) -> Any:
        """Build a data loader with per-sample seeds; see :func:`trainwright.engine.build_dataloader`.

        ``Runner.build_dataloader(cfg)`` works, too, without a run.

        Args:
            dataloader: the config of a data loader, or of several by name; or a loader, which is returned.
            seed: seed of the order and the samples; by default, that of the run, or a random one without a run.
            diff_rank_seed: whether each rank seeds its samples differently; by default, as ``randomness`` says.
            mode: ``train``, ``val`` or ``test``; by default, the one whose loop is being built, or else ``train``.
        """
        if diff_rank_seed is None:
            diff_rank_seed = self is not None and self._randomness_cfg["diff_rank_seed"]
        if seed is None:
            seed = distributed.sync_random_seed() if self is None else self.seed
        mode = mode or ("train" if self is None else self._building)
        return build_dataloaders(
            dataloader, seed=seed, rank_seed=distributed.get_data_rank() if diff_rank_seed else 0,
            path=f"{mode}_dataloader", training=mode == "train",
            pin_memory=has_own_memory(distributed.get_device() if self is None else self.device),
        )  # fmt: skip

    def build_evaluator(self, evaluator: Any, path: str = "evaluator") -> Evaluator:
        """Build an evaluator from one or more metrics, or from its config."""
        if isinstance(evaluator, Evaluator):
            return evaluator
        if isinstance(evaluator, Mapping) and "metrics" in evaluator:
            return EVALUATOR.build(evaluator, path=path)  # type: ignore[no-any-return]
        return Evaluator(evaluator)

    def build_train_loop(self, loop: Any) -> Any:
        """Build the training loop, with its data loader, from ``train_cfg``."""
        return TRAIN_LOOP.build(loop, **self._parts_of("train"))

    def build_val_loop(self, loop: Any) -> Any:
        """Build the validation loop, with its data loader and evaluator, from ``val_cfg``."""
        return VAL_LOOP.build(loop, **self._parts_of("val"))

    def build_test_loop(self, loop: Any) -> Any:
        """Build the test loop, with its data loader and evaluator, from ``test_cfg``."""
        return TEST_LOOP.build(loop, **self._parts_of("test"))

    def _build_loop(self, mode: str) -> Any:
        """Build the loop of a mode.

        Raises:
            ConfigError: arguments for this mode are missing, or contradict each other.
        """
        path = f"{mode}_cfg"
        if (cfg := getattr(self, f"_{path}")) is None:
            raise ConfigError(path, f"missing, so this run cannot {mode}", f"pass {', '.join(MODES[mode])}")
        outer, self._building = self._building, mode
        try:
            loop = getattr(self, f"build_{mode}_loop")(cfg)
        finally:
            self._building = outer
        if mode == "train" and isinstance(loop, BaseLoop) and type(loop).run.__module__ != TrainLoop.__module__:
            self.register_hook(CustomLoopHook(loop, self.state))
        return loop

    def _parts_of(self, mode: str) -> dict[str, Any]:
        """Return the arguments of the loop of a mode that come from the Runner."""
        arguments = {"runner": self, "dataloader": getattr(self, f"_{mode}_dataloader")}
        if mode != "train":
            arguments["evaluator"] = getattr(self, f"_{mode}_evaluator")
        return arguments

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        """Build the optimizer wrapper for the model, None for that of the run; a plain optimizer is wrapped."""
        optim_wrapper = self._optim_wrapper if optim_wrapper is None else optim_wrapper
        if isinstance(optim_wrapper, Optimizer):
            return OptimWrapper(optim_wrapper)
        if isinstance(optim_wrapper, Mapping):
            return build_optim_wrapper(self.model, optim_wrapper)
        return optim_wrapper

    def build_param_scheduler(self, scheduler: Any) -> Any:
        """Build the schedulers for ``optim_wrapper`` of the run.

        Args:
            scheduler: one or several, or their configs; for several optimizers, a dict of lists. An empty list, which
                the attribute is before they are built, stands for those of the run.

        Returns:
            A list of schedulers; for several optimizers, a dict of lists.
        """
        scheduler = self._param_scheduler if scheduler == [] else scheduler
        if scheduler is None:
            return []
        loop = self.train_loop
        return build_param_scheduler(
            scheduler, self.optim_wrapper,
            max_epochs=loop.max_epochs, max_iters=loop.max_iters, epoch_length=num_batches(loop.dataloader),
        )  # fmt: skip

    def _build_optimization(self) -> None:
        """Build the optimizer wrapper, with scaled learning rates if configured, and the schedulers.

        Raises:
            ConfigError: the settings are for fine-tuning, but no weights are loaded.
        """
        if self.start.path is None and (mistake := missing_weights({**self.cfg, "resume": False})):
            raise mistake
        self.optim_wrapper = self.build_optim_wrapper(self._optim_wrapper)
        self.scale_lr(self.optim_wrapper, self.auto_scale_lr)
        self.param_schedulers = self.build_param_scheduler(self._param_scheduler)
        if (self.auto_scale_lr or {}).get("enable"):
            groups = self.param_schedulers
            groups = groups.values() if isinstance(groups, Mapping) else [groups]
            if any(isinstance(scheduler, OneCycleParamScheduler) for scheduler in chain(*groups)):
                self.logger.warning(
                    "auto_scale_lr has no effect: OneCycle overrides the learning rates with its eta_max"
                )

    def scale_lr(self, optim_wrapper: Any, auto_scale_lr: Mapping[str, Any] | None = None) -> None:
        """Scale the learning rates by the batch size of all ranks, relative to the one they were tuned for.

        Args:
            optim_wrapper: the optimizer wrapper.
            auto_scale_lr: ``dict(enable=True, base_batch_size=…)``; otherwise, nothing changes.

        Raises:
            ConfigError: ``base_batch_size`` is missing, or the batch size is unknown, as with several loaders.
        """
        options = auto_scale_lr or {}
        if not options.get("enable"):
            return
        base = options.get("base_batch_size")
        if base is None:
            hint = "set it to the batch size that the learning rate was tuned for"
            raise ConfigError("auto_scale_lr.base_batch_size", "missing", hint)
        loader = self.train_loop.dataloader
        if isinstance(loader, NamedLoaders):
            message = "it is not known which of several data loaders the learning rate depends on"
            raise ConfigError("auto_scale_lr.enable", message, "set the learning rate itself")
        own = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None)  # a batch sampler decides itself
        if own is None:
            raise ConfigError(
                "auto_scale_lr.enable", f"{type(loader.batch_sampler).__name__} has no attribute batch_size"
            )
        batch_size = own * self.strategy.data_size
        for group in chain(*(single.param_groups for single in optim_wrapper.optim_wrappers.values())):
            group["lr"] *= batch_size / base
        message = "Scaled the learning rates by %g: batch size %d instead of %d"
        self.logger.info(message, batch_size / base, batch_size, base)

    def register_hook(
        self, hook: Hook | Mapping[str, Any], priority: int | str | None = None, *, path: str = ""
    ) -> Hook:
        """Add a hook.

        Args:
            hook: the hook or its config, which may have the keys ``priority`` and ``name``.
            priority: overrides the priority of the hook.
            path: dotted path of the config, for messages.
        """
        if isinstance(hook, Mapping):
            priority = priority if hook.get("priority") is None else None
            with self._as_current():
                hook = build_hook(hook, path)
        if not isinstance(hook, Hook):
            raise ConfigError(
                path or "custom_hooks",
                f"{hook!r} is not a hook",
                "derive its class from trainwright.engine.Hook",
            )
        if priority is not None:
            hook.priority = priority
        self._hooks.add(hook, path)
        return hook

    def register_default_hooks(self, hooks: Mapping[str, Any] | None = None) -> None:
        """Add the default hooks, with changes by name: a hook, a config, or None to leave it out."""
        for path, hook in configured_hooks(hooks or {}, ()):
            self.register_hook(hook, **accepted(self.register_hook, path=path))

    def register_custom_hooks(self, hooks: Sequence[Any]) -> None:
        """Add hooks after the default ones."""
        for index, hook in enumerate(hooks):
            self.register_hook(hook, **accepted(self.register_hook, path=f"custom_hooks.{index}"))

    def register_hooks(
        self, default_hooks: Mapping[str, Any] | None = None, custom_hooks: Sequence[Any] | None = None
    ) -> None:
        """Add the default hooks, with changes, and further ones."""
        self.register_default_hooks(default_hooks)
        if custom_hooks is not None:
            self.register_custom_hooks(custom_hooks)


def trains_by_epoch(train_cfg: Any) -> bool:
    """Return whether the configured training loop, or one that is built, counts epochs.

    Raises:
        ConfigError: the type is unknown, or contradicts ``by_epoch``.
    """
    if train_cfg is not None and not isinstance(train_cfg, Mapping):
        return bool(getattr(train_cfg, "by_epoch", True))
    cfg = train_cfg or {}
    with LOOPS.switch_scope(cfg.get("_scope_")) as registry:
        loop = resolve(TRAIN_LOOP.type_of(cfg), registry, path="train_cfg", origin=origin_of(cfg, "type"))
    if mistake := contradicts_by_epoch(cfg, loop):
        raise mistake
    return bool(getattr(loop, "by_epoch", TRAIN_LOOP.read(cfg, "by_epoch")))
