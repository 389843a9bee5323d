"""Building several optimizers, each for its own submodules of a model."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from trainwright.engine.building import origin_of
from trainwright.engine.errors import ConfigError, did_you_mean
from trainwright.engine.optim.constructor import build_optim_wrapper
from trainwright.engine.optim.wrapper import OptimWrapper
from trainwright.engine.optim.wrapper_dict import OptimWrapperDict
from trainwright.engine.parts import NAMED_OPTIM_WRAPPER_KEYS, OPTIM_WRAPPER
from trainwright.engine.records.logger import get_logger
from trainwright.engine.registry import MODEL_WRAPPERS, OPTIM_WRAPPER_CONSTRUCTORS

NAMED_OPTIM_WRAPPER = replace(
    OPTIM_WRAPPER, places=("optim_wrapper.{name}",), keys={**OPTIM_WRAPPER.keys, **NAMED_OPTIM_WRAPPER_KEYS}
)
"""One of several optimizer wrappers."""
_FOR_MODELS = "MMDistributedDataParallel"
_SHOWN = 3


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class MultiOptimWrapperConstructor:
    """A constructor of one optimizer wrapper for each of several submodules, as in mmagic.

    The keys of ``optim_wrapper`` are names of submodules, such as ``generator`` or ``decoder.head``. Each value
    configures a wrapper with its ``optimizer``, ``type``, ``accumulative_counts``, ``clip_grad``, ``paramwise_cfg`` and
    ``constructor``. Two keys are particular to it:

    - ``modules``: names of submodules and parameters; the key is then only the name of the wrapper.
    - ``interval``: the wrapper updates in every n-th iteration only. Accumulation counts the iterations in which it
      takes part; schedules by iteration count all.

    A model with its own ``train_step`` selects a wrapper by name, ``optim_wrapper["generator"]``, and decides when it
    updates. The ``forward`` of any other model returns the losses of each wrapper by its name,
    ``dict(generator=dict(loss=...), discriminator=dict(loss=...))``, which only change the parameters of that wrapper;
    or its losses as usual, which change the parameters of all of them. All wrappers update after this one forward pass,
    from the same weights, and use the same mixed precision. ``interval`` applies to such models.

    Example:
        >>> optim_wrapper = dict(
        ...     constructor="MultiOptimWrapperConstructor",
        ...     generator=dict(optimizer=dict(type="Adam", lr=1e-4), interval=5),
        ...     discriminator=dict(optimizer=dict(type="Adam", lr=4e-4), clip_grad=dict(max_norm=1)),
        ... )
        >>> param_scheduler = dict(generator=[...], discriminator=[...])

    Args:
        optim_wrapper_cfg: the configs of the wrappers by name.
        paramwise_cfg: must be None; each wrapper has its own.

    Raises:
        ConfigError: a key is not the config of a wrapper, a submodule does not exist, two wrappers have a parameter in
            common, or a trainable parameter belongs to none: its gradients would be computed, but never used or
            cleared.
    """

    path = "optim_wrapper"
    not_names = frozenset(
        ["optimizer", "type", "accumulative_counts", "clip_grad", *NAMED_OPTIM_WRAPPER.keys]
    )  # keys of a wrapper

    def __init__(self, optim_wrapper_cfg: Mapping[str, Any], paramwise_cfg: Mapping[str, Any] | None = None) -> None:
        self.optim_wrapper_cfg = optim_wrapper_cfg
        given = dict(optim_wrapper_cfg) if paramwise_cfg is None else {"paramwise_cfg": paramwise_cfg}
        for mistake in self.mistakes(given, self.path):
            raise mistake

    @staticmethod
    def mistakes(cfg: Mapping[str, Any], path: str) -> Iterator[ConfigError]:
        """Yield an error for each key that does not configure a wrapper; see also ``check``."""
        for key, value in cfg.items():
            origin = origin_of(cfg, key)
            if key == "constructor":
                continue
            if key in MultiOptimWrapperConstructor.not_names:
                hint = f"set it in the config of each wrapper: {path}=dict(name=dict({key}=...))"
                yield ConfigError(f"{path}.{key}", "the optimizer wrappers are configured by name", hint, origin)
            elif not isinstance(value, Mapping):
                message = f"expected the config of an optimizer wrapper, not {value!r}"
                yield ConfigError(f"{path}.{key}", message, f"{key}=dict(optimizer=dict(type=...))", origin)
            else:
                interval = NAMED_OPTIM_WRAPPER.read(value, "interval")
                if not isinstance(interval, int) or interval < 1:
                    message = f"must be an integer of at least 1, not {interval!r}"
                    yield ConfigError(f"{path}.{key}.interval", message, origin=origin_of(value, "interval"))
        if not cfg.keys() - {"constructor"}:
            yield ConfigError(path, "there is no optimizer wrapper", "name=dict(optimizer=dict(type=...))")

    def __call__(self, model: nn.Module) -> OptimWrapperDict:
        """Build the wrappers for a model, or for the ``module`` of a model wrapper."""
        model = getattr(model, "module", model)
        owners: dict[int, str] = {}
        parts = {}
        for name, cfg in self.optim_wrapper_cfg.items():
            parts[name] = part = self._part(model, name, cfg)
            for param_name, param in part.named_parameters():
                owner = owners.setdefault(id(param), name)
                if owner != name:
                    message = f"{param_name} belongs to the wrapper {owner!r}, too"
                    hint = "a parameter can have one optimizer only"
                    raise ConfigError(f"{self.path}.{name}", message, hint, origin_of(self.optim_wrapper_cfg, name))
        self._refuse_untrained(model, owners)
        wrappers = OptimWrapperDict(**{name: self._wrapper(name, part) for name, part in parts.items()})
        wrappers.intervals = {
            name: NAMED_OPTIM_WRAPPER.read(cfg, "interval") for name, cfg in self.optim_wrapper_cfg.items()
        }
        if set(wrappers.intervals.values()) != {1} and not MODEL_WRAPPERS.get(_FOR_MODELS).can_train(type(model)):
            message = "%s: %s has its own train_step, which decides when each optimizer updates: interval has no effect"
            get_logger().warning(message, self.path, type(model).__name__)
        return wrappers

    def _part(self, model: nn.Module, name: str, cfg: Mapping[str, Any]) -> nn.Module:
        """Return a module with the submodules and parameters of a wrapper, under their names in the model."""
        modules = NAMED_OPTIM_WRAPPER.read(cfg, "modules")
        names: list[str] = [name] if modules is None else [modules] if isinstance(modules, str) else list(modules)
        found: dict[str, Any] = {**dict(model.named_modules()), **dict(model.named_parameters())}
        children = [child for child, module in model.named_children() if any(True for _ in module.parameters())]
        part = nn.Module()
        for module_name in names:
            if len(children) == 1 and (inner := f"{children[0]}.{module_name}") in found:  # a plain module in a wrapper
                module_name = inner
            if not module_name or module_name not in found:
                place, key = (f"{self.path}.{name}", "modules") if modules is not None else (self.path, name)
                hint = did_you_mean(module_name, list(found)) or f"it has {', '.join(children)}"
                if modules is None:
                    hint += f"\nor name the submodules: {name}=dict(modules=[...], ...)"
                message = f"{type(model).__name__} has no submodule {module_name!r}"
                origin = origin_of(self.optim_wrapper_cfg if modules is None else cfg, key)
                raise ConfigError(f"{place}.{key}", message, hint, origin)
            owner, (*outer_names, last) = part, module_name.split(".")
            for outer in outer_names:
                if outer not in owner._modules:
                    owner.add_module(outer, nn.Module())
                owner = owner.get_submodule(outer)
            setattr(owner, last, found[module_name])
        if not any(True for _ in part.parameters()):
            raise ConfigError(f"{self.path}.{name}", f"{', '.join(names)} has no parameters to train")
        return part

    def _refuse_untrained(self, model: nn.Module, owners: Mapping[int, str]) -> None:
        names = [name for name, param in model.named_parameters() if param.requires_grad and id(param) not in owners]
        if names:
            shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
            raise ConfigError(
                self.path,
                f"no optimizer trains {shown}",
                "add them to the modules of a wrapper, or freeze them, as with model=dict(frozen=[...]): their "
                "gradients would be computed in each step, but never used or cleared",
            )

    def _wrapper(self, name: str, part: nn.Module) -> OptimWrapper:
        path = f"{self.path}.{name}"
        cfg: Any = copy.copy(self.optim_wrapper_cfg[name])  # keeps the origins
        for key in NAMED_OPTIM_WRAPPER_KEYS:
            cfg.pop(key, None)
        try:
            wrapper: Any = build_optim_wrapper(part, cfg, path=path)
        except ConfigError as error:
            if not error.path.startswith(path):  # of a constructor that does not know its path yet
                error.path = error.path.replace(self.path, path, 1)
            raise
        if wrapper.clip_grad_kwargs:
            wrapper.grad_name = f"{name}.{wrapper.grad_name}"
        names = [param_name for param_name, _ in part.named_parameters()]
        get_logger().info("optimizer %r: %d parameters (%s, …, %s)", name, len(names), names[0], names[-1])
        return wrapper  # type: ignore[no-any-return]
