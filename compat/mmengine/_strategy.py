"""``mmengine._strategy``, and what cannot run on this engine."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, NoReturn

from trainwright.engine import (
    DDP,
    FSDP2,
    OPTIM_WRAPPERS,
    RUNNERS,
    STRATEGIES,
    ConfigError,
    OptimWrapper,
    Runner,
    Single,
)
from trainwright.engine import Strategy as BaseStrategy
from trainwright.engine.building import origin_of
from trainwright.engine.distributed import infer_launcher


@RUNNERS.register_module()
class FlexibleRunner(Runner):
    """MMEngine's Runner for strategies, which every Runner has here, and in a config.

    Args:
        model: the model, or its config.
        work_dir: the folder for checkpoints and logs.
        strategy: config of the strategy; if None, it is chosen.
        compile: whether to compile the model, or the arguments of ``torch.compile``.
        launcher: as for a Runner; if None, inferred from the environment variables.
        cfg: as for a Runner.
        **options: further arguments of a Runner.
    """

    def __init__(
        self,
        model: Any,
        *,
        work_dir: str = "work_dirs",
        strategy: Mapping[str, Any] | None = None,
        compile: bool | Mapping[str, Any] = False,
        launcher: str | None = None,
        cfg: Any = None,
        **options: Any,
    ) -> None:
        settings = {"strategy": _plain(strategy), "compile": compile}
        cfg = deepcopy(cfg) or {}
        for key, value in settings.items():
            if value:
                cfg[key] = value
        launcher = infer_launcher() if launcher is None else launcher
        super().__init__(model, work_dir, launcher=launcher, cfg=cfg, **options)


def _plain(value: Any) -> Any:
    """Return a config with the arguments of partial functions, such as an ``auto_wrap_policy``, in their place."""
    if isinstance(value, partial):
        return _plain(value.keywords)
    return {key: _plain(inner) for key, inner in value.items()} if isinstance(value, Mapping) else value


@STRATEGIES.register_module()
class SingleDeviceStrategy(Single):
    """Train in a single process."""


@STRATEGIES.register_module()
class DDPStrategy(DDP):
    """Train with PyTorch's ``DistributedDataParallel``.

    Args:
        sync_bn: replace batch norms by synchronized ones.
        model_wrapper: config of the wrapper.
        **options: further arguments of :class:`~trainwright.engine.DDP`.
    """

    def __init__(
        self, *, sync_bn: bool | str | None = None, model_wrapper: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        given = {} if model_wrapper is None else {"model_wrapper_cfg": model_wrapper}
        super().__init__(**{"sync_bn": sync_bn, **given, **options})


@STRATEGIES.register_module()
class FSDPStrategy(FSDP2):
    """Train with each process storing a part of the weights, by :class:`~trainwright.engine.FSDP2`.

    Args:
        model_wrapper: ``auto_wrap_policy`` with ``min_num_params`` or ``transformer_layer_cls`` becomes ``min_params``
            and ``wrap`` of FSDP2.
        state_dict_cfg: not used: checkpoints contain whole tensors, unless ``CheckpointHook`` has ``sharded=True``.
        skip_init_weights: not used: weights that a checkpoint replaces are not initialized.
        **options: arguments of FSDP2.

    Raises:
        ConfigError: ``model_wrapper`` has other keys.
    """

    def __init__(
        self,
        *,
        model_wrapper: Mapping[str, Any] | None = None,
        state_dict_cfg: str | Mapping[str, Any] = "full",
        skip_init_weights: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**{**_units(model_wrapper or {}), **options})


def _units(model_wrapper: Mapping[str, Any]) -> dict[str, Any]:
    rest = dict(model_wrapper)
    policy = rest.pop("auto_wrap_policy", None) or {}
    rest.pop("type", None)
    rest.pop("use_orig_params", None)
    if rest or not isinstance(policy, Mapping):
        what = ", ".join(rest) or "function that chooses units"
        hint = "use strategy=dict(type='FSDP2', wrap=[...], min_params=...)"
        origin = origin_of(model_wrapper, next(iter(rest), ""))
        raise ConfigError("strategy.model_wrapper", f"FSDP2 has no {what}", hint, origin)
    units: dict[str, Any] = {}
    if "min_num_params" in policy:
        units["min_params"] = policy["min_num_params"]
    if layers := policy.get("transformer_layer_cls"):
        several = layers if isinstance(layers, Sequence | set) and not isinstance(layers, str) else [layers]
        units["wrap"] = [str(getattr(layer, "__name__", layer)).rpartition(".")[2] for layer in several]
    return units


class _Refused(BaseStrategy):
    """A strategy of MMEngine that this engine does not have."""

    package = ""

    def __init__(self, **options: Any) -> None:
        raise self._error()

    @classmethod
    def mistakes(cls, cfg: Mapping[str, Any]) -> Iterator[ConfigError]:
        """Yield the reason why a config cannot be run."""
        yield cls._error(cfg.get("strategy"))

    @classmethod
    def _error(cls, cfg: Any = None) -> ConfigError:
        hint = "strategy=dict(type='FSDP2', min_params=1e7) also shares weights, gradients and optimizer state"
        return ConfigError("strategy", f"{cls.package} is not supported", hint, origin_of(cfg, "type"))


@STRATEGIES.register_module()
class DeepSpeedStrategy(_Refused):
    """DeepSpeed, which is not supported; see :class:`~trainwright.engine.FSDP2`."""

    package = "DeepSpeed"


@STRATEGIES.register_module()
class ColossalAIStrategy(_Refused):
    """ColossalAI, which is not supported; see :class:`~trainwright.engine.FSDP2`."""

    package = "ColossalAI"


@OPTIM_WRAPPERS.register_module()
class DeepSpeedOptimWrapper(OptimWrapper):
    """The optimizer of DeepSpeed, which is not supported."""

    def __init__(self, *args: Any, **options: Any) -> NoReturn:
        raise ConfigError("optim_wrapper.type", "DeepSpeed is not supported", "use OptimWrapper or AmpOptimWrapper")


@OPTIM_WRAPPERS.register_module()
class ColossalAIOptimWrapper(DeepSpeedOptimWrapper):
    """The optimizer of ColossalAI, which is not supported."""
