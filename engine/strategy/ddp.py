"""Data parallel training: every process has the whole model."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from trainwright.engine.building import origin_of, resolve
from trainwright.engine.errors import ConfigError, did_you_mean
from trainwright.engine.parts import MODEL_WRAPPER, setting, strategy_cfg, wrappers_by_name
from trainwright.engine.records.logger import get_logger
from trainwright.engine.registry import MODEL_WRAPPERS, MODELS, STRATEGIES, Registry
from trainwright.engine.run.model_surgery import revert_sync_batchnorm
from trainwright.engine.strategy.base import Strategy, on_device, with_synced_batchnorm

_DEFAULT, _SEPARATE = "MMDistributedDataParallel", "MMSeparateDistributedDataParallel"
_COMM_HOOKS = ("fp16_compress", "bf16_compress", "powerSGD")


@STRATEGIES.register_module()
class DDP(Strategy):
    """Train with PyTorch's ``DistributedDataParallel``, which averages the gradients of all processes in each update.

    With gradient accumulation, gradients are exchanged once per window. In a single process, the model is not wrapped.
    A model with its own ``train_step``, such as a GAN, or with several optimizers is wrapped in
    ``MMSeparateDistributedDataParallel`` by default.

    Args:
        find_unused_parameters: look for parameters without a gradient in every iteration. Required if there are any.
        static_graph: the graph of the model is the same in all iterations, which allows for optimizations.
        gradient_as_bucket_view: let gradients share the memory of the buffers in which they are exchanged.
        comm_hook: how gradients are exchanged: ``"fp16_compress"`` or ``"bf16_compress"`` in half precision,
            ``"powerSGD"`` compressed (Vogels et al. 2019, https://arxiv.org/abs/1905.13727), or a dict with this name
            as ``type`` and the arguments of PyTorch's ``PowerSGDState``. Its error feedback is not part of checkpoints.
        sync_bn: replace batch norms by synchronized ones.
        model_wrapper_cfg: ``type`` of the wrapper, ``MMDistributedDataParallel`` by default, and further arguments.
        randomness: if it has ``deterministic=True``, or on a CPU, the buckets of gradients are not rearranged after the
            first iteration, so that a resumed run has the same bits.
        optim_wrapper: the config of the optimizer.

    Raises:
        ConfigError: ``comm_hook`` is unknown.
    """

    top_level_keys: ClassVar = ("model_wrapper_cfg", "find_unused_parameters", "sync_bn", "randomness", "optim_wrapper")

    def __init__(
        self,
        find_unused_parameters: bool = False,
        static_graph: bool = False,
        gradient_as_bucket_view: bool = False,
        comm_hook: str | Mapping[str, Any] | None = None,
        sync_bn: bool | str | None = None,
        model_wrapper_cfg: Mapping[str, Any] | None = None,
        randomness: Mapping[str, Any] | None = None,
        optim_wrapper: Any = None,
    ) -> None:
        super().__init__()
        self._options: dict[str, Any] = {"find_unused_parameters": find_unused_parameters}
        for name, value in (("static_graph", static_graph), ("gradient_as_bucket_view", gradient_as_bucket_view)):
            if value:  # wrappers of other libraries may not have these arguments
                self._options[name] = value
        self._comm_hook = _comm_hook(comm_hook)
        self._sync_bn = sync_bn
        self._deterministic = bool((randomness or {}).get("deterministic"))
        self._several = bool(wrappers_by_name(optim_wrapper))
        self._wrapper_cfg = {} if model_wrapper_cfg is None else model_wrapper_cfg

    @classmethod
    def mistakes(cls, cfg: Mapping[str, Any]) -> Iterator[ConfigError]:
        """Yield an error for wrong settings of the exchange of gradients or of the model wrapper, and as the base."""
        yield from super().mistakes(cfg)
        options = strategy_cfg(cfg, several=True)
        try:
            _comm_hook(options.get("comm_hook"))
        except ConfigError as error:
            error.origin = origin_of(options, "comm_hook")
            yield error
        wrapper_cfg = setting(cfg, "model_wrapper_cfg")
        wrapper = _class_of(wrapper_cfg, MODEL_WRAPPERS)
        if wrapper is not None and not hasattr(wrapper, "train_step"):
            message, hint = f"{wrapper.__name__} has no train_step", f"use {_DEFAULT!r}"
            yield ConfigError("model_wrapper_cfg.type", message, hint, origin_of(wrapper_cfg, "type"))
        if wrapper is None and (model := _class_of(cfg.get("model"), MODELS)) is not None:
            for mistake in _without_effect(options, model, bool(wrappers_by_name(cfg.get("optim_wrapper")))):
                mistake.origin = origin_of(options, mistake.path.rpartition(".")[2])
                yield mistake

    def place(self, model: nn.Module, device: torch.device, channels_last: bool) -> nn.Module:
        """Move a model to its device, and wrap it if there are several processes."""
        model = on_device(model, device, channels_last)
        if self.data_size == 1:
            return revert_sync_batchnorm(model)
        model = with_synced_batchnorm(model, self._sync_bn, device)
        device_ids: dict[str, Any] = {"device_ids": [device.index]} if device.type == "cuda" else {}
        wrapper_cfg = self._wrapper_cfg
        reason = _reason_for_separate(type(model), self._several)
        if wrapper_cfg.get("type") is None and reason:
            for error in _without_effect({**self._options, "comm_hook": self._comm_hook}, type(model), self._several):
                raise error
            wrapper_cfg = {**wrapper_cfg, "type": _SEPARATE}
            get_logger().info("%s: gradients are averaged at each update.", reason)
        wrapped: Any = MODEL_WRAPPER.build(wrapper_cfg, module=model, **self._options, **device_ids)
        exact = device.type == "cpu" or self._deterministic  # where everything else is
        if exact and self.data_size > 2 and hasattr(wrapped, "keep_buckets"):
            wrapped.keep_buckets()
        if self._comm_hook is not None:
            if not hasattr(wrapped, "register_comm_hook"):
                hint = f"use {_DEFAULT!r}"
                raise ConfigError("strategy.comm_hook", f"{type(wrapped).__name__} has no communication hooks", hint)
            wrapped.register_comm_hook(*self._comm_hook)
        return wrapped  # type: ignore[no-any-return]


def _reason_for_separate(model: type, several: bool) -> str:
    """Return why a model is not wrapped as usual by default; empty if it is."""
    if not MODEL_WRAPPERS.get(_DEFAULT).can_train(model):
        return f"{model.__name__} has its own train_step"
    return "There are several optimizers" if several else ""


def _without_effect(options: Mapping[str, Any], model: type, several: bool) -> Iterator[ConfigError]:
    """Yield an error for each option that has no effect, since gradients are exchanged by the optimizers."""
    if not (reason := _reason_for_separate(model, several)):
        return
    for name in ("static_graph", "gradient_as_bucket_view", "comm_hook"):
        if options.get(name):
            message = f"has no effect: {reason}, and the model is wrapped in {_SEPARATE}"
            yield ConfigError(f"strategy.{name}", message, "remove it")


def _class_of(cfg: Any, registry: Registry) -> type[Any] | None:
    """Return the class that a config names, or None if there is none, or other checks report it."""
    if not isinstance(cfg, Mapping) or cfg.get("type") is None:
        return None
    with registry.switch_scope(cfg.get("_scope_")) as scoped:
        try:
            found: Any = resolve(cfg["type"], scoped, path="")
        except (ConfigError, ImportError):
            return None
    return found if isinstance(found, type) else None


def _comm_hook(cfg: str | Mapping[str, Any] | None) -> tuple[Any, Any] | None:
    """Return the state and function of a communication hook."""
    if cfg is None:
        return None
    options = {"type": cfg} if isinstance(cfg, str) else dict(cfg)
    name = options.pop("type", None)
    if name not in _COMM_HOOKS or (options and name != "powerSGD"):
        hint = did_you_mean(str(name), _COMM_HOOKS) or f"one of {', '.join(_COMM_HOOKS)}; only powerSGD has arguments"
        raise ConfigError("strategy.comm_hook", f"unknown communication hook {cfg!r}", hint)
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook

    if name == "powerSGD":
        try:
            return powerSGD_hook.PowerSGDState(None, **options), powerSGD_hook.powerSGD_hook
        except TypeError as error:
            raise ConfigError("strategy.comm_hook", str(error), "see PowerSGDState in PyTorch") from error
    return None, getattr(default_hooks, f"{name}_hook")
