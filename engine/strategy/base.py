"""The interface of a strategy, and the one for a single process."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar

import torch
from torch import nn

from trainwright.engine import distributed
from trainwright.engine.building import origin_of, resolve
from trainwright.engine.errors import ConfigError
from trainwright.engine.parts import STRATEGY, setting, strategy_cfg
from trainwright.engine.registry import STRATEGIES
from trainwright.engine.run.model_surgery import (
    convert_sync_batchnorm,
    revert_sync_batchnorm,
    sync_batchnorm_on_cpu,
    to_channels_last,
)


class Strategy:
    """Base class of strategies, which place a model in the processes of a run.

    Attributes:
        data_rank: the position of this process among those that train on different data.
        data_size: the number of processes that train on different data.
        is_sharded: whether the parameters are ``DTensor`` objects, of which a process has only a part. Reading whole
            ones is then a collective call, and so is the collection of a checkpoint.
        offloads: whether weights, gradients and optimizer state are kept in host memory.
        forward_is_collective: whether all processes must run the same number of forward passes.
        top_level_keys: keys of the whole config that are also arguments; those of the strategy take precedence.
    """

    data_rank: int
    data_size: int
    top_level_keys: ClassVar[tuple[str, ...]] = ()
    is_sharded = False
    offloads = False
    forward_is_collective = False

    def __init__(self) -> None:
        self.data_rank, self.data_size = distributed.get_dist_info()
        distributed.set_data_ranks(self.data_rank, self.data_size)

    @classmethod
    def mistakes(cls, cfg: Mapping[str, Any]) -> Iterator[ConfigError]:
        """Yield an error for each setting of a whole config that does not work with this strategy."""
        yield from ()

    def construction(self) -> AbstractContextManager[Any]:
        """Return the context in which the model is built."""
        return nullcontext()

    def place(self, model: nn.Module, device: torch.device, channels_last: bool) -> nn.Module:
        """Move a model to its device, and distribute or wrap it.

        Args:
            model: the model, not yet initialized.
            device: the device to train on.
            channels_last: store the weights of 2-d convolutions channels-last, if supported.
        """
        raise NotImplementedError

    @contextmanager
    def initializing(self, model: nn.Module, missing: Collection[str] | None) -> Iterator[None]:
        """Return the context in which weights are initialized; afterwards, all processes have the same.

        Args:
            model: the model, without a wrapper.
            missing: names of the tensors to initialize; all if None.
        """
        yield
        distributed.broadcast_parameters(model)

    def exchange_gradients(self, model: nn.Module) -> None:
        """Exchange gradients that are accumulated outside the parameters, so that ``grad`` has all of them."""


def build_strategy(cfg: Mapping[str, Any]) -> Strategy:
    """Build the strategy of a whole config. The process group, if any, must be initialized.

    Raises:
        ConfigError: the strategy is unknown, or does not work with the rest of the config.
    """
    options = strategy_cfg(cfg, distributed.get_world_size() > 1)
    with STRATEGIES.switch_scope(options.get("_scope_")) as registry:
        cls: Any = resolve(options.get("type"), registry, path="strategy", origin=origin_of(options, "type"))
    for mistake in cls.mistakes(cfg):
        raise mistake
    if not distributed.is_distributed():
        options, cls = {"type": "Single"}, Single
    values = {
        "model_wrapper_cfg": setting(cfg, "model_wrapper_cfg"),
        "find_unused_parameters": setting(cfg, "find_unused_parameters"),
        "sync_bn": setting(cfg, "sync_bn"),
        "randomness": cfg.get("randomness"),
        "optim_wrapper": cfg.get("optim_wrapper"),
    }
    return STRATEGY.build(options, **{key: values[key] for key in cls.top_level_keys})  # type: ignore[no-any-return]


@STRATEGIES.register_module()
class Single(Strategy):
    """Train in a single process.

    Raises:
        ConfigError: there are several processes.
    """

    def __init__(self) -> None:
        super().__init__()
        if self.data_size > 1:
            hint = "use 'DDP', 'FSDP2' or 'auto', or start a single process"
            raise ConfigError("strategy", f"'Single' cannot train in {self.data_size} processes", hint)

    def place(self, model: nn.Module, device: torch.device, channels_last: bool) -> nn.Module:
        """Move a model to its device, with batch norms for a single process."""
        return revert_sync_batchnorm(on_device(model, device, channels_last))


def on_device(model: nn.Module, device: torch.device, channels_last: bool) -> nn.Module:
    """Move a model to a device."""
    model = model.to(device)
    if channels_last:
        to_channels_last(model)
    return model


def with_synced_batchnorm(model: nn.Module, sync_bn: bool | str | None, device: torch.device) -> nn.Module:
    """Replace batch norms by synchronized ones if ``sync_bn`` is set, and those of the model by ones for its device."""
    if sync_bn:
        model = convert_sync_batchnorm(model, "torch" if sync_bn is True else sync_bn)
    return sync_batchnorm_on_cpu(model) if device.type == "cpu" else model
