"""``mmengine.optim``."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from trainwright.compat.mmengine.unsupported import ApexOptimWrapper, ZeroRedundancyOptimizer
from trainwright.engine import (
    OPTIMIZERS,
    AmpOptimWrapper,
    ConstantLR,
    ConstantMomentum,
    ConstantParamScheduler,
    CosineAnnealingLR,
    CosineAnnealingMomentum,
    CosineAnnealingParamScheduler,
    CosineRestartLR,
    CosineRestartMomentum,
    CosineRestartParamScheduler,
    DefaultOptimWrapperConstructor,
    ExponentialLR,
    ExponentialMomentum,
    ExponentialParamScheduler,
    LinearLR,
    LinearMomentum,
    LinearParamScheduler,
    MultiStepLR,
    MultiStepMomentum,
    MultiStepParamScheduler,
    OneCycleLR,
    OneCycleParamScheduler,
    OptimWrapper,
    OptimWrapperDict,
    PolyLR,
    PolyMomentum,
    PolyParamScheduler,
    ReduceOnPlateauLR,
    ReduceOnPlateauMomentum,
    ReduceOnPlateauParamScheduler,
    StepLR,
    StepMomentum,
    StepParamScheduler,
    build_optim_wrapper,
)
from trainwright.engine.optim.param_scheduler import INF, _ParamScheduler
from trainwright.engine.optim.schedulers import LRSchedulerMixin, MomentumSchedulerMixin
from trainwright.engine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, PARAM_SCHEDULERS

BaseOptimWrapper = OptimWrapper

TORCH_OPTIMIZERS = sorted(
    name
    for name, member in vars(torch.optim).items()
    if isinstance(member, type) and issubclass(member, torch.optim.Optimizer) and member is not torch.optim.Optimizer
)
NPU_OPTIMIZERS: list[str] = []
TRANSFORMERS_OPTIMIZERS: list[str] = []  # its Adafactor is not taken: the name is PyTorch's
_LISTS = {
    "BITSANDBYTES_OPTIMIZERS": "bitsandbytes.optim",
    "DADAPTATION_OPTIMIZERS": "dadaptation",
    "LION_OPTIMIZERS": "lion_pytorch",
    "SOPHIA_OPTIMIZERS": "Sophia",
}


def __getattr__(name: str) -> Any:
    """Return the names that the optimizers of an optional package have in a config."""
    if name not in _LISTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    package = _LISTS[name]
    top = package.partition(".")[0]
    if find_spec(top) is None:
        return []
    members = [name for name, member in vars(import_module(package)).items() if isinstance(member, type)]
    names = [*members, *(f"bnb_{name}" for name in members if name in TORCH_OPTIMIZERS)]
    return sorted(name for name in names if getattr(OPTIMIZERS.get(name), "__module__", "").startswith(top))
