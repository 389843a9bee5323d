"""The names of ``mmengine.analysis`` and its modules."""

from trainwright.engine.estimate.complexity import (
    ActivationAnalyzer,
    FlopAnalyzer,
    activation_count,
    flop_count,
    parameter_count,
)
from trainwright.engine.estimate.complexity import ComplexityAnalyzer as JitModelAnalysis
from trainwright.engine.estimate.complexity_table import get_model_complexity_info, parameter_count_table

__all__ = [
    "ActivationAnalyzer",
    "FlopAnalyzer",
    "JitModelAnalysis",
    "activation_count",
    "flop_count",
    "get_model_complexity_info",
    "parameter_count",
    "parameter_count_table",
]
