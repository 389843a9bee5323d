"""Fully sharded data parallel training, also with tensor parallelism."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import torch
from torch import nn

from trainwright.engine import distributed
from trainwright.engine.building import origin_of
from trainwright.engine.errors import ConfigError, did_you_mean
from trainwright.engine.parts import strategy_cfg
from trainwright.engine.records.logger import get_logger
from trainwright.engine.registry import STRATEGIES
from trainwright.engine.run.model_surgery import revert_sync_batchnorm
from trainwright.engine.strategy import meta_init
from trainwright.engine.strategy.base import Strategy, with_synced_batchnorm
from trainwright.engine.strategy.shards import whole_weights
from trainwright.engine.strategy.tensor_parallel import check_tensor_parallel, parallelize

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_PRECISION = ("param_dtype", "reduce_dtype", "output_dtype", "cast_forward_inputs")
_WITHOUT_FORWARD = (nn.ModuleList, nn.ModuleDict)


@STRATEGIES.register_module()
class FSDP2(Strategy):
    """Train with PyTorch's ``fully_shard``: each process stores a part of the weights, gradients and optimizer state.

    The parameters of a *unit* are gathered for its forward and backward pass. The model itself is a unit; ``wrap``
    and ``min_params`` make smaller ones, which save memory. A unit must be called as a module: if a model uses other
    methods of a submodule, or its weights directly, that submodule must not be a unit.

    Checkpoints contain whole tensors and are the same as those of the other strategies, unless ``CheckpointHook`` has
    ``sharded=True``. A run with one process and without a process group trains as ``Single``. Weights are not stored
    channels-last.

    Args:
        wrap: units by class name (``"TransformerBlock"``) or by module name, with wildcards (``"backbone.layers.*"``).
        min_params: also make units of modules with at least this number of parameters that are not in another unit.
        replicate: number of groups of processes that each store all weights (hybrid sharding); they must divide the
            processes.
        reshard_after_forward: free whole weights between the forward and the backward pass. By default, all units do
            but the model itself.
        mixed_precision: dtype of the gathered weights, such as ``"bfloat16"``, or a dict of ``param_dtype``,
            ``reduce_dtype``, ``output_dtype`` and ``cast_forward_inputs``. With a dtype alone, gradients are
            reduced in float32.
        cpu_offload: keep weights, gradients and optimizer state in host memory.
        meta: build the model without memory for its parameters, and allocate only the shards. The initial weights are
            the same, drawn layer by layer with ``reset_parameters``. If there is an ``init_cfg``, the whole model is
            gathered for it. A model whose constructor initializes weights in another way must have an ``init_cfg`` for
            them, or load a checkpoint.
        tensor_parallel: ``size``, the number of consecutive processes that share layers, and ``plan``, a dict of
            patterns of module names and styles: ``"colwise"``, ``"rowwise"`` or ``"sequence"``, or a dict of ``style``
            and its layouts, ``input`` and ``output`` (``"replicate"`` or the dimension that is split), or ``dim`` of
            ``"sequence"``. These processes get the same data.
        sync_bn: replace batch norms by synchronized ones.

    Raises:
        ConfigError: an argument is invalid, or PyTorch is too old.
    """

    top_level_keys: ClassVar = ("sync_bn",)
    is_sharded = True
    forward_is_collective = True

    def __init__(
        self,
        wrap: str | Sequence[str] = (),
        min_params: float | None = None,
        replicate: int = 1,
        reshard_after_forward: bool | None = None,
        mixed_precision: str | Mapping[str, Any] | None = None,
        cpu_offload: bool = False,
        meta: bool = False,
        tensor_parallel: Mapping[str, Any] | None = None,
        sync_bn: bool | str | None = None,
    ) -> None:
        super().__init__()
        self._wrap = [wrap] if isinstance(wrap, str) else list(wrap)
        self._min_params = min_params
        self._reshard_after_forward = reshard_after_forward
        self._precision = _precision(mixed_precision)
        self.offloads = cpu_offload
        self._meta = meta
        self._unknown: frozenset[str] = frozenset()
        self._sync_bn = sync_bn
        size, self._plan = (1, {}) if tensor_parallel is None else check_tensor_parallel(tensor_parallel)
        groups, rest = divmod(self.data_size, size)
        if rest:
            message = f"{size} does not divide the {self.data_size} processes"
            raise ConfigError("strategy.tensor_parallel.size", message)
        if replicate < 1 or groups % replicate:
            message = f"{replicate} does not divide the {groups} " + ("processes" if size == 1 else "data ranks")
            raise ConfigError("strategy.replicate", message)
        self.data_rank, self.data_size = self.data_rank // size, groups
        distributed.set_data_ranks(self.data_rank, self.data_size)
        self._sizes = {"replicate": replicate, "shard": self.data_size // replicate, "tensor": size}

    @classmethod
    def mistakes(cls, cfg: Mapping[str, Any]) -> Iterator[ConfigError]:
        """Yield an error for each setting of a whole config that does not work with sharded parameters."""
        yield from super().mistakes(cfg)
        for key, remedy in (
            ("find_unused_parameters", "remove it: parameters without a gradient are allowed if all processes agree"),
            ("model_wrapper_cfg", "remove it, or use the strategy 'DDP'"),
        ):
            if cfg.get(key):
                yield ConfigError(key, "has no effect with the strategy 'FSDP2'", remedy, origin_of(cfg, key))
        env_cfg = cfg.get("env_cfg") or {}
        if env_cfg.get("channels_last"):
            message = "sharded parameters cannot be stored channels-last"
            yield ConfigError("env_cfg.channels_last", message, "remove it", origin_of(env_cfg, "channels_last"))
        wrapper = cfg.get("optim_wrapper")
        optimizer = wrapper.get("optimizer") if isinstance(wrapper, Mapping) else None
        if isinstance(optimizer, Mapping) and optimizer.get("type") == "LBFGS":
            message = "LBFGS needs whole parameters, which are sharded by the strategy 'FSDP2'"
            yield ConfigError("optim_wrapper.optimizer.type", message, origin=origin_of(optimizer, "type"))
        options = strategy_cfg(cfg, several=True)
        for key, check_value in (("tensor_parallel", check_tensor_parallel), ("mixed_precision", _precision)):
            try:
                if options.get(key) is not None:
                    check_value(options[key])
            except ConfigError as error:
                error.origin = origin_of(options, key)
                yield error

    def construction(self) -> AbstractContextManager[Any]:
        """Return the context in which the model is built."""
        self._generator = torch.get_rng_state()
        return meta_init.parameters_on_meta() if self._meta else nullcontext()

    def place(self, model: nn.Module, device: torch.device, channels_last: bool) -> nn.Module:
        """Shard a model, in place.

        Raises:
            ConfigError: a pattern matches no module, or a parameter is shared between units.
        """
        fully_shard, precision, offload = _engine()
        from torch.distributed.device_mesh import init_device_mesh

        if self._sync_bn or self.data_size > 1:
            model = with_synced_batchnorm(model, self._sync_bn, device)
        else:
            model = revert_sync_batchnorm(model)
        self._meta = self._meta and any(param.is_meta for param in model.parameters())  # not if passed as an object
        if self._meta:
            self._unknown = meta_init.own_initialization(model)
        used = {name: size for name, size in self._sizes.items() if size > 1 or name == "shard"}
        if self._plan:
            used["tensor"] = self._sizes["tensor"]
        mesh = init_device_mesh(device.type, tuple(used.values()), mesh_dim_names=tuple(used))
        if self._plan:
            parallelize(model, mesh["tensor"], self._plan)
        units = self._units(model)
        _refuse_shared(model, units)
        options: dict[str, Any] = {
            "mesh": mesh["replicate", "shard"] if "replicate" in used else mesh["shard"],
            "reshard_after_forward": self._reshard_after_forward,
            "mp_policy": precision(**self._precision),
        }
        if self.offloads:
            options["offload_policy"] = offload(pin_memory=device.type != "cpu")
        for unit in units:
            fully_shard(unit, **options)
        if self._meta:
            meta_init.allocate(model, torch.device("cpu") if self.offloads else device)
        number = sum(param.numel() for param in model.parameters())
        sizes = ", ".join(f"{name} {size}" for name, size in used.items())
        get_logger().info("FSDP2: %d parameters in %d units on a mesh of %s", number, len(units), sizes)
        return model

    @contextmanager
    def initializing(self, model: nn.Module, missing: Collection[str] | None) -> Iterator[None]:
        """Return the context in which weights are initialized, as whole plain tensors."""
        gathers = True
        if self._meta:
            meta_init.initialize(model, missing, self._unknown, self._generator)
            gathers = meta_init.has_initializers(model)
        if gathers:
            with whole_weights(model), super().initializing(model, missing):
                yield
        else:
            yield
            for buffer in model.buffers():
                distributed.broadcast(buffer)
        meta_init.refuse_uninitialized(model, self._unknown.intersection(missing or self._unknown))

    def exchange_gradients(self, model: nn.Module) -> None:
        """Exchange the gradients of an accumulation window so far, which PyTorch accumulates outside of ``grad``."""
        modules: list[Any] = [module for module in model.modules() if hasattr(module, "_get_fsdp_state")]
        for module in modules:
            state = module._get_fsdp_state()
            groups = getattr(state, "_fsdp_param_groups", None) or [state._fsdp_param_group]
            module.set_requires_gradient_sync(True, recurse=False)
            for group in [group for group in groups if group is not None]:
                group.post_backward()  # idempotent: it reduces gradients that were not reduced
                group.finalize_backward()

    def _units(self, model: nn.Module) -> list[nn.Module]:
        """Return the modules to shard, inner ones first, the model last."""
        modules = {name: module for name, module in model.named_modules() if name}
        chosen: dict[str, nn.Module] = {}
        for pattern in self._wrap:
            matching = [
                name
                for name, module in modules.items()
                if fnmatchcase(name, pattern) or type(module).__name__ == pattern
            ]
            if not matching:
                known = [*modules, *(type(module).__name__ for module in modules.values())]
                raise ConfigError("strategy.wrap", f"the model has no module {pattern!r}", did_you_mean(pattern, known))
            for name in matching:
                if isinstance(modules[name], _WITHOUT_FORWARD):
                    message = f"{name} ({type(modules[name]).__name__}) is not called itself"
                    raise ConfigError("strategy.wrap", message, f"use '{name}.*'")
                chosen[name] = modules[name]
        inside_attention = tuple(
            f"{name}." for name, module in modules.items() if isinstance(module, nn.MultiheadAttention)
        )
        assigned: set[int] = set()
        units: list[nn.Module] = []
        for name, module in reversed(modules.items()):
            params = {id(param): param.numel() for param in module.parameters() if id(param) not in assigned}
            is_large = self._min_params is not None and sum(params.values()) >= self._min_params
            if name in chosen or (
                is_large and not isinstance(module, _WITHOUT_FORWARD) and not name.startswith(inside_attention)
            ):
                assigned.update(params)
                units.append(module)
        return [*units, model]


def _precision(given: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the arguments of PyTorch's ``MixedPrecisionPolicy``."""
    if given is None:
        return {}
    options: dict[str, Any] = (
        {"param_dtype": given, "reduce_dtype": "float32"} if isinstance(given, str) else dict(given)
    )
    for key, value in options.items():
        if key not in _PRECISION:
            raise ConfigError(f"strategy.mixed_precision.{key}", "unknown setting", did_you_mean(key, _PRECISION))
        if key.endswith("dtype") and value is not None:
            if value not in _DTYPES:
                raise ConfigError(f"strategy.mixed_precision.{key}", f"{value!r} is not one of {', '.join(_DTYPES)}")
            options[key] = _DTYPES[value]
    return options


def _refuse_shared(model: nn.Module, units: Sequence[nn.Module]) -> None:
    """Raise a ``ConfigError`` if a parameter belongs to modules of different units."""
    unit_of: dict[str, nn.Module] = {}
    names = {module: name for name, module in model.named_modules()}
    for unit in reversed(units):  # inner ones last
        prefix = f"{names[unit]}." if names[unit] else ""
        unit_of.update({name: unit for name in names.values() if f"{name}.".startswith(prefix)})
    owners: dict[int, str] = {}
    for name, param in model.named_parameters(remove_duplicate=False):
        first = owners.setdefault(id(param), name)
        if unit_of[name.rpartition(".")[0]] is not unit_of[first.rpartition(".")[0]]:
            message = f"the parameter {first} is also {name}, in another unit"
            raise ConfigError("strategy.wrap", message, "put both modules into one unit")


def _engine() -> Any:
    """Return ``fully_shard`` and its policies for precision and offloading.

    Raises:
        ConfigError: PyTorch does not have them.
    """
    try:
        from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
    except ImportError as error:
        message = f"PyTorch {torch.__version__} has no torch.distributed.fsdp.fully_shard"
        raise ConfigError("strategy", message, "use PyTorch 2.6 or newer, or the strategy 'DDP'") from error
    return fully_shard, MixedPrecisionPolicy, CPUOffloadPolicy
