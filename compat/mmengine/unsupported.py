"""Parts of MMEngine that this engine does not have. They can be imported, and raise an error when they are used."""

from typing import Any, NoReturn


class _Unsupported:
    """Base class of what cannot be used; ``remedy`` says what to use instead."""

    remedy = ""

    def __init__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(f"{type(self).__name__} is not supported: {self.remedy}")


class MMFullyShardedDataParallel(_Unsupported):
    """PyTorch's first FSDP."""

    remedy = "set strategy=dict(type='FSDP2') in the config, instead of model_wrapper_cfg"


class ZeroRedundancyOptimizer(_Unsupported):
    """An optimizer whose state is shared among the processes."""

    remedy = "set strategy=dict(type='FSDP2') in the config, which also shares weights and gradients"


class ApexOptimWrapper(_Unsupported):
    """Mixed precision by NVIDIA's apex, which is not maintained."""

    remedy = "use AmpOptimWrapper"


class NPUProfilerHook(_Unsupported):
    """The profiler of Huawei's NPUs."""

    remedy = "use ProfilerHook"


def turn_on_efficient_conv_bn_eval(*args: Any, **kwargs: Any) -> NoReturn:
    """Refuse to fold batch norms in evaluation mode into convolutions."""
    raise NotImplementedError("efficient_conv_bn_eval is not supported; compile=True fuses layers on accelerators")


turn_on_efficient_conv_bn_eval_for_single_model = turn_on_efficient_conv_bn_eval
