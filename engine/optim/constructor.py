"""Building optimizer wrappers from configs, with per-parameter settings and layer-wise decay."""

import copy
import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.optim import Optimizer

from trainwright.engine.building import origin_of, resolve
from trainwright.engine.errors import ConfigError, did_you_mean
from trainwright.engine.optim.fine_tuning import NEEDS_PRETRAINED
from trainwright.engine.optim.layer_depth import layer_depths
from trainwright.engine.optim.optimizers import build_optimizer, optimizer_class_of, refuse_unknown_arguments
from trainwright.engine.optim.wrapper import OptimWrapper
from trainwright.engine.optim.wrapper_dict import AnyOptimWrapper, OptimWrapperDict
from trainwright.engine.parts import OPTIM_WRAPPER, OPTIM_WRAPPER_CONSTRUCTOR, wrappers_by_name
from trainwright.engine.records.logger import get_logger
from trainwright.engine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS

_NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_DEFORMABLE_CONVS = {"DeformConv2d", "ModulatedDeformConv2d"}


def build_optim_wrapper(model: nn.Module, cfg: Any, *, path: str = "optim_wrapper") -> AnyOptimWrapper:
    """Build the optimizer wrapper of a model.

    Args:
        model: the model to train.
        cfg: ``optimizer`` (a config, or an optimizer), ``type`` of the wrapper (default ``OptimWrapper``) and
            its arguments, ``paramwise_cfg`` and ``constructor`` (default :class:`DefaultOptimWrapperConstructor`).
            A wrapper is returned unchanged; a dict of wrappers becomes an :class:`OptimWrapperDict`.
        path: dotted path of ``cfg``, for messages.

    Raises:
        ConfigError: a key is unknown, missing or invalid.
    """
    if isinstance(cfg, OptimWrapper):
        return cfg
    if not isinstance(cfg, Mapping):
        raise ConfigError(path, f"expected a config or an OptimWrapper, not {cfg!r}")
    if cfg and all(isinstance(value, OptimWrapper) for value in cfg.values()):
        return OptimWrapperDict(**cfg)
    wrapper_cfg = OPTIM_WRAPPER.arguments(cfg)
    constructor_type = OPTIM_WRAPPER.read(cfg, "constructor")
    paramwise_cfg = OPTIM_WRAPPER.read(cfg, "paramwise_cfg")
    optimizer = wrapper_cfg.get("optimizer")
    if optimizer is None and constructor_type is None:
        if several := wrappers_by_name(cfg):
            raise several_without_constructor(cfg, several, path)
        hint = did_you_mean("optimizer", wrapper_cfg) or "optimizer=dict(type='SGD', lr=0.1)"
        raise ConfigError(path, "'optimizer' is missing", hint)
    if isinstance(optimizer, Optimizer):
        if paramwise_cfg or constructor_type:
            raise ConfigError(
                path, "paramwise_cfg and constructor cannot be used with an optimizer that is already built"
            )
        return _build_wrapper(wrapper_cfg, optimizer, path)
    constructor = OPTIM_WRAPPER_CONSTRUCTOR.build(
        {"type": constructor_type} if constructor_type else {},
        path=f"{path}.constructor" if constructor_type else path,
        optim_wrapper_cfg=wrapper_cfg,
        paramwise_cfg=paramwise_cfg,
    )
    if isinstance(constructor, DefaultOptimWrapperConstructor):
        constructor.path = path
    return constructor(model)  # type: ignore[no-any-return]


def several_without_constructor(cfg: Mapping[str, Any], names: list[str], path: str) -> ConfigError:
    """Return the error for wrappers configured by name without a constructor that builds them."""
    return ConfigError(
        path,
        f"optimizers are configured by name ({', '.join(names)}), but the 'constructor' that builds them is missing",
        f"{path}=dict(constructor='MultiOptimWrapperConstructor', {names[0]}=dict(...), ...) trains the submodules of "
        "the model that have these names",
        origin_of(cfg, names[0]),
    )


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class DefaultOptimWrapperConstructor:
    """A constructor of an optimizer and its wrapper, with per-parameter settings from ``paramwise_cfg``.

    Keys of ``paramwise_cfg``. Multipliers apply to the optimizer's ``lr`` or ``weight_decay``, or to the default of
    its class if the config does not set it:

    - ``custom_keys``: settings for parameters whose name contains the key. If several keys match, the longest takes
      precedence, then the alphabetically first, and none of the rules below apply. Each is a dict with ``lr_mult``
      and ``decay_mult``; any other entry is copied into the parameter group.
    - ``bias_lr_mult``, ``bias_decay_mult``: biases outside deformable convolutions; ``bias_lr_mult`` leaves out
      normalization layers, too.
    - ``norm_decay_mult``: weights and biases of normalization layers; takes precedence over ``bias_decay_mult``.
    - ``dwconv_decay_mult``: depth-wise convolutions.
    - ``flat_decay_mult``: all other one-dimensional parameters.
    - ``dcn_offset_lr_mult``: the offset layers of deformable convolutions, including biases.
    - ``needs_pretrained``: the other settings are for fine-tuning: refuse a config that loads no pretrained weights.
    - ``bypass_duplicate``: use a parameter that several modules share once, instead of raising an error.

    Frozen parameters are left out. Parameters with equal settings form one group; groups are ordered by their first
    parameter in module order. The optimizer's state numbers parameters group by group, and the wrapper's
    ``param_order`` maps them to their position in module order.

    Args:
        optim_wrapper_cfg: ``optimizer``, ``type`` of the wrapper and its arguments.
        paramwise_cfg: the per-parameter settings.

    Raises:
        ConfigError: a key is unknown, or a multiplier has nothing to multiply.
    """

    paramwise_keys: ClassVar[frozenset[str]] = frozenset([
        "custom_keys", "bias_lr_mult", "bias_decay_mult", "norm_decay_mult", "dwconv_decay_mult", "flat_decay_mult",
        "dcn_offset_lr_mult", "bypass_duplicate", NEEDS_PRETRAINED,
    ])  # fmt: skip
    path = "optim_wrapper"

    def __init__(self, optim_wrapper_cfg: Mapping[str, Any], paramwise_cfg: Mapping[str, Any] | None = None) -> None:
        if not isinstance(optim_wrapper_cfg, Mapping):
            raise ConfigError(self.path, f"expected a config, not {optim_wrapper_cfg!r}")
        wrapper_cfg: Any = copy.copy(optim_wrapper_cfg)
        self.optimizer_cfg: Any = wrapper_cfg.pop("optimizer", None)
        self.optim_wrapper_cfg: Any = wrapper_cfg
        if not isinstance(self.optimizer_cfg, Mapping):
            raise ConfigError(
                f"{self.path}.optimizer",
                f"expected a config, not {self.optimizer_cfg!r}",
                "several optimizers need optim_wrapper=dict(constructor='MultiOptimWrapperConstructor', ...)",
            )
        self.paramwise_cfg: Any = {} if paramwise_cfg is None else paramwise_cfg
        self.base_lr = self._setting("lr")
        self.base_wd = self._setting("weight_decay")
        self._validate_cfg()

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the wrapper for a model, or for the ``module`` of a model wrapper."""
        model = getattr(model, "module", model)
        order = None
        names = {id(param): name for name, param in model.named_parameters()}
        params: list[Any] = list(model.parameters())
        listed: list[dict[str, Any]] = [{"params": params}]
        if self.paramwise_cfg:
            listed = []
            self.add_params(listed, model)
            params, order = self._merge(listed, names)
        sparse = any(getattr(module, "sparse", False) is True for module in model.modules())
        optimizer = build_optimizer(params, self.optimizer_cfg, path=f"{self.path}.optimizer", allow_fused=not sparse)
        wrapper = _build_wrapper(self.optim_wrapper_cfg, optimizer, self.path)
        wrapper.param_order = order
        wrapper.param_names = [names.get(id(param), "?") for group in listed for param in group["params"]]
        return wrapper

    def add_params(
        self, params: list[dict[str, Any]], module: nn.Module, prefix: str = "", is_dcn_module: bool | None = None
    ) -> None:
        """Append a group for each parameter of a module and its children, with the settings that differ.

        Args:
            params: the list to append to.
            module: the module.
            prefix: name of the module in the model; empty for the model itself.
            is_dcn_module: whether the module is a child of a deformable convolution.
        """
        for name, param in module.named_parameters(recurse=False):
            group: dict[str, Any] = {"params": [param]}
            if not param.requires_grad:
                continue
            if self._is_in(group, params):
                if self.paramwise_cfg.get("bypass_duplicate", False):
                    continue
                raise ConfigError(
                    f"{self.path}.paramwise_cfg",
                    f"parameter {name!r} of module {prefix!r} is shared with another module",
                    "bypass_duplicate=True uses it once, with the settings of its first occurrence",
                )
            settings = self._custom_settings(f"{prefix}.{name}")
            if settings is None:
                settings = self._rule_settings(module, name, param.ndim, prefix, bool(is_dcn_module))
            params.append({**group, **settings})
        is_deformable = any(cls.__name__ in _DEFORMABLE_CONVS for cls in type(module).__mro__)
        for child_name, child in module.named_children():
            child_prefix = f"{prefix}.{child_name}" if prefix else child_name
            self.add_params(params, child, prefix=child_prefix, is_dcn_module=is_deformable)

    def _setting(self, name: str) -> Any:
        """Return a setting of the optimizer or its default; None if it is missing, zero or not a number."""
        if name in self.optimizer_cfg or "type" not in self.optimizer_cfg:
            return self.optimizer_cfg.get(name)
        optimizer_class = optimizer_class_of(self.optimizer_cfg, f"{self.path}.optimizer")
        parameter = inspect.signature(optimizer_class).parameters.get(name)
        is_number = parameter is not None and isinstance(parameter.default, int | float)
        return (parameter.default or None) if parameter is not None and is_number else None

    def _validate_cfg(self) -> None:
        """Reject inconsistent settings."""
        path = f"{self.path}.paramwise_cfg"
        if not isinstance(self.paramwise_cfg, Mapping):
            raise ConfigError(path, f"expected a dict, not {self.paramwise_cfg!r}")
        if "paramwise_keys" in vars(type(self)):  # other subclasses may read further keys
            for key in self.paramwise_cfg:
                if key not in self.paramwise_keys:
                    known = ", ".join(sorted(self.paramwise_keys))
                    hint = did_you_mean(key, self.paramwise_keys) or f"valid keys: {known}"
                    raise ConfigError(f"{path}.{key}", "unknown key", hint, origin_of(self.paramwise_cfg, key))
        custom_keys = self.paramwise_cfg.get("custom_keys", {})
        if not isinstance(custom_keys, Mapping):
            raise ConfigError(f"{path}.custom_keys", f"expected a dict, not {custom_keys!r}")
        multipliers = dict.fromkeys(self.paramwise_cfg, path)
        for name, settings in custom_keys.items():
            if not isinstance(settings, Mapping):
                raise ConfigError(f"{path}.custom_keys.{name}", f"expected a dict, not {settings!r}")
            multipliers.update(dict.fromkeys(settings, f"{path}.custom_keys.{name}"))
        for key, place in multipliers.items():
            for suffix, base, setting in (
                ("decay_mult", self.base_wd, "weight_decay"),
                ("lr_mult", self.base_lr, "lr"),
            ):
                if key.endswith(suffix) and base is None:
                    raise ConfigError(
                        f"{place}.{key}",
                        f"the optimizer's config has no {setting!r} to multiply",
                        f"set {self.path}.optimizer.{setting}: its default is 0 or missing",
                    )

    def _is_in(self, param_group: dict[str, Any], param_group_list: list[dict[str, Any]]) -> bool:
        """Return whether any parameter of a group is in one of the listed groups."""
        wanted = {id(param) for param in param_group["params"]}
        return any(id(param) in wanted for group in param_group_list for param in group["params"])

    def _custom_settings(self, name: str) -> dict[str, Any] | None:
        custom_keys = self.paramwise_cfg.get("custom_keys", {})
        for key in sorted(sorted(custom_keys), key=len, reverse=True):
            if key in name:
                custom = custom_keys[key]
                settings: dict[str, Any] = {}
                if self.base_lr is not None:
                    settings["lr"] = self.base_lr * custom.get("lr_mult", 1.0)
                if self.base_wd is not None:
                    settings["weight_decay"] = self.base_wd * custom.get("decay_mult", 1.0)
                return {**settings, **custom}
        return None

    def _rule_settings(self, module: nn.Module, name: str, ndim: int, prefix: str, in_dcn: bool) -> dict[str, Any]:
        mults = self.paramwise_cfg
        is_norm = isinstance(module, _NORMS)
        is_conv = isinstance(module, nn.Conv2d)
        settings: dict[str, Any] = {}
        if name == "bias" and not is_norm and not in_dcn and (mult := mults.get("bias_lr_mult")) is not None:
            settings["lr"] = self.base_lr * mult
        if in_dcn and is_conv and "conv_offset" in prefix and (mult := mults.get("dcn_offset_lr_mult")) is not None:
            settings["lr"] = self.base_lr * mult
        rules = (
            ("norm_decay_mult", is_norm),
            ("bias_decay_mult", name == "bias" and not in_dcn),
            ("dwconv_decay_mult", is_conv and module.in_channels == module.groups),
            ("flat_decay_mult", ndim == 1 and not in_dcn),
        )
        for key, applies in rules:
            if applies and self.base_wd is not None and mults.get(key) is not None:
                settings["weight_decay"] = self.base_wd * mults[key]
                break
        return settings

    def _merge(self, listed: list[dict[str, Any]], names: Mapping[int, str]) -> tuple[list[dict[str, Any]], list[int]]:
        """Merge groups with equal settings; return them, and the position of each parameter in ``listed``."""
        self._warn_of_unused_keys(list(names.values()))
        defaults = {"lr": self.base_lr, "weight_decay": self.base_wd}
        base = {key: value for key, value in defaults.items() if value is not None}
        base.update((key, value) for key, value in self.optimizer_cfg.items() if key not in ("type", "_scope_"))
        merged: dict[str, dict[str, Any]] = {}
        positions: dict[str, list[int]] = {}
        position = 0
        for group in listed:
            settings = {key: value for key, value in group.items() if key != "params"}
            identity = repr(sorted({**base, **settings}.items()))
            merged.setdefault(identity, {"params": [], **settings})["params"].extend(group["params"])
            count = len(group["params"])
            positions.setdefault(identity, []).extend(range(position, position + count))
            position += count
        for index, group in enumerate(merged.values()):
            get_logger().info("parameter group %d: %s", index, _describe(group, base, names))
        return list(merged.values()), [position for group in positions.values() for position in group]

    def _warn_of_unused_keys(self, names: list[str]) -> None:
        dotted = [name if "." in name else f".{name}" for name in names]
        for key in self.paramwise_cfg.get("custom_keys", {}):
            if not any(key in name for name in dotted):
                parts = {part for name in names for part in (name, name.rpartition(".")[0], *name.split(".")) if part}
                get_logger().warning(
                    "%s.paramwise_cfg.custom_keys: no parameter's name contains %r; %s",
                    self.path,
                    key,
                    did_you_mean(key, sorted(parts)) or f"example names: {', '.join(names[:3])}",
                )


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LearningRateDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """A constructor with layer-wise learning rate decay towards the input, as used to fine-tune transformers.

    A parameter's learning rate is multiplied by ``decay_rate ** (num_layers - 1 - depth)``, so the head keeps the
    full rate. Depths come from ``get_layer_depth(param_name, prefix) -> (depth, num_layers)`` of the backbone or the
    model, if it is defined. Otherwise, the repeated blocks of the model (encoder layers of a ViT, blocks of Swin,
    ConvNeXt or ResNet) are counted 1, 2, …; layers before the first block are 0, layers between two blocks belong to
    the later one, and layers after the last block are the head. (BEiT, https://arxiv.org/abs/2106.08254; ELECTRA,
    https://arxiv.org/abs/2003.10555.)

    ``paramwise_cfg`` has two keys in addition to those of :class:`DefaultOptimWrapperConstructor`:

    - ``decay_rate`` (or ``layer_decay_rate``): in (0, 1]. Below 1, the default of ``needs_pretrained`` is True: with
      random weights, the first layers would hardly learn.
    - ``num_layers``: number of depths, instead of counting them. Larger depths are clipped to the last.

    Args:
        optim_wrapper_cfg: ``optimizer``, ``type`` of the wrapper and its arguments.
        paramwise_cfg: the per-parameter settings; ``decay_rate`` is required.

    Raises:
        ConfigError: ``decay_rate`` is missing or out of range, or the optimizer has no ``lr``.
    """

    paramwise_keys = DefaultOptimWrapperConstructor.paramwise_keys | {"decay_rate", "layer_decay_rate", "num_layers"}

    def add_params(
        self, params: list[dict[str, Any]], module: nn.Module, prefix: str = "", is_dcn_module: bool | None = None
    ) -> None:
        """Append the same groups as the default constructor, with learning rates decayed by depth."""
        super().add_params(params, module, prefix, is_dcn_module)
        if prefix:
            return
        names = {id(param): name for name, param in module.named_parameters()}
        decay_rate = self._decay_rate()
        depth_of = layer_depths(module, names.values())
        wanted = self.paramwise_cfg.get("num_layers")
        for group in params:
            depth, num_layers = depth_of[names[id(group["params"][0])]]
            if wanted is not None:
                depth, num_layers = min(depth, wanted - 1), wanted
            group["lr"] = group.get("lr", self.base_lr) * decay_rate ** (num_layers - 1 - depth)

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        path = f"{self.path}.paramwise_cfg.decay_rate"
        decay_rate = self._decay_rate()
        if not isinstance(decay_rate, int | float) or not 0 < decay_rate <= 1:
            raise ConfigError(path, f"expected a number in (0, 1], not {decay_rate!r}")
        if self.base_lr is None:
            raise ConfigError(path, "the optimizer's config has no 'lr' to multiply")

    def _decay_rate(self) -> Any:
        return self.paramwise_cfg.get("decay_rate", self.paramwise_cfg.get("layer_decay_rate"))


def _build_wrapper(cfg: Mapping[str, Any], optimizer: Optimizer, path: str) -> OptimWrapper:
    wrapper_class = resolve(OPTIM_WRAPPER.type_of(cfg), OPTIM_WRAPPERS, path=path, origin=origin_of(cfg, "type"))
    refuse_unknown_arguments(cfg, wrapper_class, path)
    return OPTIM_WRAPPER.build(cfg, path=path, optimizer=optimizer)  # type: ignore[no-any-return]


def _describe(group: Mapping[str, Any], base: Mapping[str, Any], names: Mapping[int, str]) -> str:
    settings = {key: value for key, value in base.items() if key in ("lr", "weight_decay")}
    settings.update((key, value) for key, value in group.items() if key != "params")
    shown = ", ".join(
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in settings.items()
    )
    members = [names.get(id(param), "?") for param in group["params"]]
    listed = ", ".join(members[:3]) + (", …" if len(members) > 3 else "")
    count = f"{len(members)} parameter{'s' if len(members) != 1 else ''}"
    return f"{shown}: {count} ({listed})"
