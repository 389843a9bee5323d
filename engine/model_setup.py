"""From a model's config to the module that a run trains: built, on its device, wrapped, compiled."""

from collections.abc import Mapping, Sized
from logging import Logger
from typing import Any

import torch
from torch import nn

from trainwright.engine.errors import ConfigError
from trainwright.engine.model_surgery import convert_sync_batchnorm, is_model_wrapper, revert_sync_batchnorm
from trainwright.engine.registry import MODEL_WRAPPERS, MODELS

_LONE_SAMPLE = "drop_last=True leaves out an incomplete last batch; or choose another batch_size, 2 at least"


def build_model(model: Any, data_preprocessor: Any = None) -> nn.Module:
    """Builds a model that has ``train_step``.

    Args:
        model: a config or a module; one without ``train_step`` is wrapped in ``ModuleWrapper``.
        data_preprocessor: given to a model that is built from a config and names none.

    Raises:
        ConfigError: it is no module.
    """
    if isinstance(model, Mapping):
        default = {} if data_preprocessor is None else {"data_preprocessor": data_preprocessor}
        model = MODELS.build(model, path="model", **default)
    if not isinstance(model, nn.Module):
        raise ConfigError("model", f"a {type(model).__name__} is no torch.nn.Module")
    if hasattr(model, "train_step"):
        return model
    default = {} if data_preprocessor is None else {"data_preprocessor": data_preprocessor}
    return MODELS.build({"type": "ModuleWrapper", "module": model, **default}, path="model")  # type: ignore[no-any-return]


def place_model(model: nn.Module, cfg: Mapping[str, Any], device: torch.device, distributed: bool) -> nn.Module:
    """Moves a model to its device and, where several processes train, wraps it.

    Args:
        model: the model.
        cfg: switches: ``sync_bn``, ``model_wrapper_cfg``, ``find_unused_parameters``.
        device: where to train.
        distributed: whether several processes train together.
    """
    if not distributed:
        return revert_sync_batchnorm(model).to(device)
    if cfg.get("sync_bn"):
        model = convert_sync_batchnorm(model)
    wrapper = cfg.get("model_wrapper_cfg") or {
        "type": "MMDistributedDataParallel",
        "broadcast_buffers": False,
    }
    device_ids = {"device_ids": [device.index]} if device.type == "cuda" else {}
    return MODEL_WRAPPERS.build(  # type: ignore[no-any-return]
        wrapper, path="model_wrapper_cfg", module=model.to(device),
        find_unused_parameters=cfg.get("find_unused_parameters", False), **device_ids,
    )  # fmt: skip


def warn_of_lone_sample(model: nn.Module, loader: Any, logger: Logger) -> None:
    """Warns where the last batch of an epoch has one sample, which batch normalisation over vectors cannot train on."""
    size = getattr(loader, "batch_size", None)
    sampler = getattr(loader, "sampler", None)
    if not size or getattr(loader, "drop_last", False) or not isinstance(sampler, Sized):
        return
    if len(sampler) % size == 1 % size and any(
        isinstance(module, nn.BatchNorm1d) and module.training for module in model.modules()
    ):
        which = "The last batch of an epoch" if size > 1 else "Each batch"
        logger.warning("%s has one sample. BatchNorm1d cannot train on it: %s", which, _LONE_SAMPLE)


def lone_sample_error() -> ConfigError:
    """Returns the error to raise for PyTorch's of a batch of one sample, or of one pixel, before BatchNorm."""
    message = "a batch has one value per channel where the model normalises over the batch, which cannot be trained on"
    return ConfigError("train_dataloader", message, _LONE_SAMPLE)


def unwrap(model: Any) -> nn.Module:
    """Returns the model inside a wrapper such as ``DistributedDataParallel``."""
    return model.module if is_model_wrapper(model) else model  # type: ignore[no-any-return]  # a wrapper's module


def compile_forward(model: Any, options: Any) -> None:
    """Compiles a model's forward, and nothing else of the step.

    Args:
        model: the model; it may decide itself what is worth compiling, in ``compile_forward(**options)``.
        options: arguments of ``torch.compile``, or True.
    """
    if options:
        compile_ = getattr(model, "compile_forward", model.compile)
        compile_(**(options if isinstance(options, Mapping) else {}))
