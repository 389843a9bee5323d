"""Modules with a configurable initialization."""

from abc import ABCMeta
from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

from torch import nn

from trainwright.engine.records.logger import get_logger
from trainwright.engine.run.model_setup import needs_weights
from trainwright.engine.run.model_surgery import is_model_wrapper
from trainwright.models.initializers import PretrainedInit, initialize

InitCfg = Mapping[str, Any] | list[dict[str, Any]] | None


class BaseModule(nn.Module, metaclass=ABCMeta):
    """Base class of modules whose parameters are initialized by ``init_cfg``.

    Args:
        init_cfg: one or more initializer configs, such as ``dict(type='Kaiming', layer='Conv2d')`` or
            ``dict(type='Pretrained', checkpoint='resnet.pth')``. The ``init_cfg`` of a submodule is applied later and
            takes precedence, except over ``Pretrained``, which is applied last.
    """

    def __init__(self, init_cfg: InitCfg = None) -> None:
        super().__init__()
        self._is_init = False
        self.init_cfg = deepcopy(init_cfg)

    @property
    def is_init(self) -> bool:
        """Whether :meth:`init_weights` has run; set it to True to skip initialization."""
        return self._is_init

    @is_init.setter
    def is_init(self, value: bool) -> None:
        self._is_init = value

    def init_weights(self) -> None:
        """Initialize the parameters: first by ``init_cfg``, then the children, then by ``Pretrained``.

        A second call logs a warning and does nothing.
        """
        if self._is_init:
            get_logger().warning("init_weights of %s was called more than once", type(self).__name__)
            return
        configs = [self.init_cfg] if isinstance(self.init_cfg, Mapping) else self.init_cfg or []
        initialize(self, [cfg for cfg in configs if not _is_pretrained(cfg)])
        for child in self.children():
            if is_model_wrapper(child) and not hasattr(child, "init_weights"):
                child = child.module  # type: ignore[assignment]
            if hasattr(child, "init_weights") and not getattr(child, "is_init", False) and needs_weights(child):
                child.init_weights()  # type: ignore[operator]
        initialize(self, [cfg for cfg in configs if _is_pretrained(cfg)])
        self._is_init = True

    def _dump_init_info(self) -> None:
        """Do nothing; exists because models written for MMEngine call it."""

    def __repr__(self) -> str:
        text = super().__repr__()
        return f"{text}\ninit_cfg={self.init_cfg}" if self.init_cfg else text


class Sequential(BaseModule, nn.Sequential):
    """:class:`torch.nn.Sequential` with an ``init_cfg``.

    Args:
        *args: modules, or one ordered dict of modules.
        init_cfg: one or more initializer configs.
    """

    def __init__(self, *args: Any, init_cfg: InitCfg = None) -> None:
        BaseModule.__init__(self, init_cfg)
        nn.Sequential.__init__(self, *args)


class ModuleList(BaseModule, nn.ModuleList):
    """:class:`torch.nn.ModuleList` with an ``init_cfg``.

    Args:
        modules: modules to hold.
        init_cfg: one or more initializer configs.
    """

    def __init__(self, modules: Iterable[nn.Module] | None = None, init_cfg: InitCfg = None) -> None:
        BaseModule.__init__(self, init_cfg)
        nn.ModuleList.__init__(self, modules)


class ModuleDict(BaseModule, nn.ModuleDict):
    """:class:`torch.nn.ModuleDict` with an ``init_cfg``.

    Args:
        modules: modules to hold, by name.
        init_cfg: one or more initializer configs.
    """

    def __init__(self, modules: Mapping[str, nn.Module] | None = None, init_cfg: InitCfg = None) -> None:
        BaseModule.__init__(self, init_cfg)
        nn.ModuleDict.__init__(self, modules)


def _is_pretrained(cfg: Mapping[str, Any]) -> bool:
    return cfg.get("type") in ("Pretrained", PretrainedInit)
