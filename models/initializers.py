"""Weight initializers for ``init_cfg``, and the functions behind them."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainwright.engine.checkpoints.files import get_state_dict, load_checkpoint_file, load_state_dict
from trainwright.engine.errors import CheckpointError, ConfigError, did_you_mean
from trainwright.engine.fidelity import reproduces_mmengine
from trainwright.engine.records.logger import get_logger
from trainwright.engine.registry import WEIGHT_INITIALIZERS
from trainwright.engine.run.model_setup import needs_weights


def constant_init(module: nn.Module, val: float, bias: float = 0) -> None:
    """Fill the weight with ``val`` and the bias with ``bias``."""
    _init_weight_and_bias(module, lambda weight: nn.init.constant_(weight, val), bias)


def xavier_init(module: nn.Module, gain: float = 1, bias: float = 0, distribution: str = "normal") -> None:
    """Initialize the weight after Glorot and Bengio (2010), https://proceedings.mlr.press/v9/glorot10a.html.

    Args:
        module: module with a ``weight`` of at least two dimensions.
        gain: scaling factor of the standard deviation.
        bias: value of the bias.
        distribution: ``normal`` or ``uniform``.
    """
    draw = _choose_by_distribution(distribution, nn.init.xavier_normal_, nn.init.xavier_uniform_)
    _init_weight_and_bias(module, lambda weight: draw(weight, gain=gain), bias)


def normal_init(module: nn.Module, mean: float = 0, std: float = 1, bias: float = 0) -> None:
    """Draw the weight from a normal distribution."""
    _init_weight_and_bias(module, lambda weight: nn.init.normal_(weight, mean, std), bias)


def trunc_normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0) -> Tensor:
    """Fill a tensor in place from a normal distribution truncated to ``[a, b]``."""
    if reproduces_mmengine():
        return _trunc_normal_by_inverse(tensor, mean, std, a, b)
    return nn.init.trunc_normal_(tensor, mean, std, a, b)


@torch.no_grad()
def _trunc_normal_by_inverse(tensor: Tensor, mean: float, std: float, a: float, b: float) -> Tensor:
    """Draw by the inverse of the cumulative distribution function, as MMEngine and PyTorch before 2.14 do."""
    low, high = (1 + math.erf((bound - mean) / std / math.sqrt(2)) - 1 for bound in (a, b))  # rounded as there
    tensor.uniform_(low, high).erfinv_().mul_(std * math.sqrt(2)).add_(mean)
    return tensor.clamp_(a, b)


def trunc_normal_init(
    module: nn.Module, mean: float = 0, std: float = 1, a: float = -2, b: float = 2, bias: float = 0
) -> None:
    """Draw the weight from a normal distribution truncated to ``[a, b]``."""
    _init_weight_and_bias(module, lambda weight: trunc_normal_(weight, mean, std, a, b), bias)


def uniform_init(module: nn.Module, a: float = 0, b: float = 1, bias: float = 0) -> None:
    """Draw the weight uniformly from ``[a, b]``."""
    _init_weight_and_bias(module, lambda weight: nn.init.uniform_(weight, a, b), bias)


def kaiming_init(
    module: nn.Module,
    a: float = 0,
    mode: str = "fan_out",
    nonlinearity: str = "relu",
    bias: float = 0,
    distribution: str = "normal",
) -> None:
    """Initialize the weight after He et al. (2015), https://arxiv.org/abs/1502.01852.

    Args:
        module: module with a ``weight`` of at least two dimensions.
        a: negative slope of the leaky ReLU after the module.
        mode: ``fan_in`` preserves the variance in the forward pass, ``fan_out`` in the backward pass.
        nonlinearity: activation after the module, ``relu`` or ``leaky_relu``.
        bias: value of the bias.
        distribution: ``normal`` or ``uniform``.
    """
    draw = _choose_by_distribution(distribution, nn.init.kaiming_normal_, nn.init.kaiming_uniform_)
    _init_weight_and_bias(module, lambda weight: draw(weight, a=a, mode=mode, nonlinearity=nonlinearity), bias)


def caffe2_xavier_init(module: nn.Module, bias: float = 0) -> None:
    """Initialize the weight like Caffe2's ``XavierFill``: uniformly, with variance ``1 / fan_in``."""
    kaiming_init(module, a=1, mode="fan_in", nonlinearity="leaky_relu", bias=bias, distribution="uniform")


def bias_init_with_prob(prior_prob: float) -> float:
    """Return the bias for which a sigmoid outputs the probability ``prior_prob``, in (0, 1)."""
    return -math.log((1 - prior_prob) / prior_prob)


class BaseInit:
    """Base class of initializers, which initialize all modules of the given classes.

    Args:
        bias: value of the bias.
        bias_prob: compute the bias with :func:`bias_init_with_prob` from this probability instead, in (0, 1).
        layer: names of the module classes to initialize, such as ``Conv2d``; a direct base class matches too.
        override: one or more configs, each with the ``name`` of a submodule. The config initializes all modules of the
            submodule, whatever their class; a config with only a name uses the settings of this initializer. Applied
            by :func:`initialize`.
    """

    def __init__(
        self,
        *,
        bias: float = 0,
        bias_prob: float | None = None,
        layer: str | Sequence[str] | None = None,
        override: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        if not isinstance(bias, int | float):
            raise TypeError(f"bias must be a number, not {bias!r}")
        if bias_prob is not None and not isinstance(bias_prob, float):
            raise TypeError(f"bias_prob must be a float, not {bias_prob!r}")
        if layer is not None and not isinstance(layer, str | list | tuple):
            raise TypeError(f"layer must be a class name or a list of class names, not {layer!r}")
        if override is not None and not isinstance(override, Mapping | list | tuple):
            raise TypeError(f"override must be a config or a list of configs, not {override!r}")
        self.bias = bias if bias_prob is None else bias_init_with_prob(bias_prob)
        self.layer = [layer] if isinstance(layer, str) else list(layer or [])
        self.overrides = [override] if isinstance(override, Mapping) else list(override or [])
        self.wholemodule = False

    def __call__(self, module: nn.Module) -> None:
        """Initialize the submodules of the ``layer`` classes, or all submodules if ``wholemodule`` is set."""
        for submodule in _children_first(module):
            if not needs_weights(submodule, itself=True):
                continue
            class_names = {cls.__name__ for cls in (type(submodule), *type(submodule).__bases__)}
            if self.wholemodule or not class_names.isdisjoint(self.layer):
                self.init_module(submodule)

    def init_module(self, module: nn.Module) -> None:
        """Initialize one module, which may lack a weight or bias."""
        raise NotImplementedError


@WEIGHT_INITIALIZERS.register_module(name="Constant")
class ConstantInit(BaseInit):
    """Initialize weights with a constant.

    Args:
        val: value of the weights.
        **kwargs: arguments of :class:`BaseInit`.
    """

    def __init__(self, val: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.val = val

    def init_module(self, module: nn.Module) -> None:
        constant_init(module, self.val, self.bias)


@WEIGHT_INITIALIZERS.register_module(name="Xavier")
class XavierInit(BaseInit):
    """Initialize weights with :func:`xavier_init`.

    Args:
        gain: scaling factor of the standard deviation.
        distribution: ``normal`` or ``uniform``.
        **kwargs: arguments of :class:`BaseInit`.
    """

    def __init__(self, gain: float = 1, distribution: str = "normal", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gain = gain
        self.distribution = distribution

    def init_module(self, module: nn.Module) -> None:
        xavier_init(module, self.gain, self.bias, self.distribution)


@WEIGHT_INITIALIZERS.register_module(name="Normal")
class NormalInit(BaseInit):
    """Initialize weights from a normal distribution.

    Args:
        mean: mean of the weights.
        std: standard deviation of the weights.
        **kwargs: arguments of :class:`BaseInit`.
    """

    def __init__(self, mean: float = 0, std: float = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mean = mean
        self.std = std

    def init_module(self, module: nn.Module) -> None:
        normal_init(module, self.mean, self.std, self.bias)


@WEIGHT_INITIALIZERS.register_module(name="TruncNormal")
class TruncNormalInit(BaseInit):
    """Initialize weights from a normal distribution truncated to ``[a, b]``.

    Args:
        mean: mean of the distribution before truncation.
        std: standard deviation of the distribution before truncation.
        a: smallest weight.
        b: largest weight.
        **kwargs: arguments of :class:`BaseInit`.
    """

    def __init__(self, mean: float = 0, std: float = 1, a: float = -2, b: float = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mean = mean
        self.std = std
        self.a = a
        self.b = b

    def init_module(self, module: nn.Module) -> None:
        trunc_normal_init(module, self.mean, self.std, self.a, self.b, self.bias)


@WEIGHT_INITIALIZERS.register_module(name="Uniform")
class UniformInit(BaseInit):
    """Initialize weights from a uniform distribution.

    Args:
        a: smallest weight.
        b: largest weight.
        **kwargs: arguments of :class:`BaseInit`.
    """

    def __init__(self, a: float = 0, b: float = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.a = a
        self.b = b

    def init_module(self, module: nn.Module) -> None:
        uniform_init(module, self.a, self.b, self.bias)


@WEIGHT_INITIALIZERS.register_module(name="Kaiming")
class KaimingInit(BaseInit):
    """Initialize weights with :func:`kaiming_init`.

    Args:
        a: negative slope of the leaky ReLU after the module.
        mode: ``fan_in`` or ``fan_out``.
        nonlinearity: ``relu`` or ``leaky_relu``.
        distribution: ``normal`` or ``uniform``.
        **kwargs: arguments of :class:`BaseInit`.
    """

    def __init__(
        self,
        a: float = 0,
        mode: str = "fan_out",
        nonlinearity: str = "relu",
        distribution: str = "normal",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.a = a
        self.mode = mode
        self.nonlinearity = nonlinearity
        self.distribution = distribution

    def init_module(self, module: nn.Module) -> None:
        kaiming_init(module, self.a, self.mode, self.nonlinearity, self.bias, self.distribution)


@WEIGHT_INITIALIZERS.register_module(name="Caffe2Xavier")
class Caffe2XavierInit(KaimingInit):
    """Initialize weights with :func:`caffe2_xavier_init`.

    Args:
        **kwargs: arguments of :class:`BaseInit`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(a=1, mode="fan_in", nonlinearity="leaky_relu", distribution="uniform", **kwargs)


@WEIGHT_INITIALIZERS.register_module(name="Pretrained")
class PretrainedInit:
    """Load weights from a checkpoint file.

    Args:
        checkpoint: path or URL of the file.
        prefix: prefix of the weights to load, such as ``backbone.``, which is removed; all weights if None.
        map_location: device to load the file to.
    """

    def __init__(self, checkpoint: str, prefix: str | None = None, map_location: str = "cpu") -> None:
        self.checkpoint = checkpoint
        self.prefix = prefix
        self.map_location = map_location

    def __call__(self, module: nn.Module) -> None:
        """Load the weights that fit, and log those that do not."""
        weights = get_state_dict(load_checkpoint_file(self.checkpoint, map_location=self.map_location))
        weights = {name.removeprefix("module."): weight for name, weight in weights.items()}
        if self.prefix is not None:
            prefix = self.prefix.rstrip(".") + "."
            weights = {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
            if not weights:
                raise CheckpointError(f"no name in {self.checkpoint} starts with {prefix!r}")
        load_weights(module, weights, self.checkpoint)


def load_weights(module: nn.Module, weights: Mapping[str, Any], source: str) -> None:
    """Load the weights whose names and shapes match, and log the others.

    Raises:
        CheckpointError: no weight matches.
    """
    report = load_state_dict(module, weights)
    get_logger().info("Loaded the weights of %s into %s", source, type(module).__name__)
    if report:
        get_logger().warning("Not all weights of %s were loaded:\n%s", source, report)


def initialize(module: nn.Module, init_cfg: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
    """Initialize a module.

    Args:
        module: module to initialize.
        init_cfg: one or more initializer configs; for ``layer`` and ``override`` see :class:`BaseInit`.

    Raises:
        TypeError: ``init_cfg`` or ``override`` is not a config.
        ConfigError: an ``override`` has no ``name`` or no ``type``, or names a submodule that does not exist.
    """
    if not isinstance(init_cfg, Mapping | list | tuple):
        raise TypeError(f"init_cfg must be a dict or a list of dicts, not {init_cfg!r}")
    for cfg in [init_cfg] if isinstance(init_cfg, Mapping) else init_cfg:
        initializer = WEIGHT_INITIALIZERS.build(cfg)
        initializer(module)
        for override in getattr(initializer, "overrides", ()):
            settings = {key: value for key, value in cfg.items() if key not in ("layer", "override")}
            _initialize_part(module, dict(override), settings)


def update_init_info(module: nn.Module, init_info: str) -> None:
    """Do nothing; exists because models written for MMEngine call it."""


def _initialize_part(module: nn.Module, override: dict[str, Any], settings: dict[str, Any]) -> None:
    """Initialize a whole submodule with an override, or with the outer settings if the override is only a name."""
    name = override.pop("name", None)
    if name is None:
        raise ConfigError("init_cfg.override", f"missing 'name' in {override}")
    if override and "type" not in override:
        raise ConfigError("init_cfg.override", f"missing 'type' in {override}")
    if not hasattr(module, name):
        children = [child for child, _ in module.named_children()]
        raise ConfigError(
            "init_cfg.override.name", f"{type(module).__name__} has no {name!r}", did_you_mean(name, children)
        )
    initializer = WEIGHT_INITIALIZERS.build(override or settings)
    initializer.wholemodule = True
    initializer(getattr(module, name))


def _init_weight_and_bias(module: nn.Module, draw: Callable[[Tensor], Any], bias: float) -> None:
    weight, own_bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if isinstance(weight, Tensor):
        draw(weight)
    if isinstance(own_bias, Tensor):
        nn.init.constant_(own_bias, bias)


def _choose_by_distribution(
    distribution: str, normal: Callable[..., Any], uniform: Callable[..., Any]
) -> Callable[..., Any]:
    if distribution not in ("normal", "uniform"):
        raise ValueError(f"distribution must be 'normal' or 'uniform', not {distribution!r}")
    return normal if distribution == "normal" else uniform


def _children_first(module: nn.Module) -> list[nn.Module]:
    """Return the modules in the order of :meth:`torch.nn.Module.apply`, which determines the random numbers."""
    return [inner for child in module.children() for inner in _children_first(child)] + [module]
