"""``mmengine.optim``."""

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
