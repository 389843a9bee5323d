"""``mmengine.model``."""

from typing import Any

from torch import Tensor
from torch.fx import wrap

from trainwright.compat.mmengine.unsupported import (
    MMFullyShardedDataParallel,
    turn_on_efficient_conv_bn_eval,
    turn_on_efficient_conv_bn_eval_for_single_model,
)
from trainwright.engine import BaseDataElement
from trainwright.engine.run.model_surgery import _BatchNormXd, convert_sync_batchnorm, revert_sync_batchnorm
from trainwright.models import (
    BaseAveragedModel,
    BaseDataPreprocessor,
    BaseInit,
    BaseModel,
    BaseModule,
    BaseTTAModel,
    Caffe2XavierInit,
    ConstantInit,
    ExponentialMovingAverage,
    ImgDataPreprocessor,
    KaimingInit,
    MMDistributedDataParallel,
    MMSeparateDistributedDataParallel,
    ModuleDict,
    ModuleList,
    MomentumAnnealingEMA,
    NormalInit,
    PretrainedInit,
    Sequential,
    StochasticWeightAverage,
    TruncNormalInit,
    UniformInit,
    XavierInit,
    bias_init_with_prob,
    caffe2_xavier_init,
    constant_init,
    detect_anomalous_params,
    initialize,
    is_model_wrapper,
    kaiming_init,
    normal_init,
    stack_batch,
    trunc_normal_init,
    uniform_init,
    update_init_info,
    xavier_init,
)
from trainwright.models.initializers import trunc_normal_


@wrap  # not to be traced
def merge_dict(*args: dict[Any, Any]) -> dict[Any, Any]:
    """Return the items of several dictionaries in one."""
    merged: dict[Any, Any] = {}
    for part in args:
        merged.update(part)
    return merged


EnhancedBatchInputs = list[Tensor | list[Tensor]]
EnhancedBatchDataSamples = list[list[BaseDataElement]]
MergedDataSamples = list[BaseDataElement]
CastData = tuple[Any, ...] | dict[str, Any] | BaseDataElement | Tensor | list[Any] | bytes | str | None
