from .building import build as build
from .checking import check as check
from .checkpoints.files import find_latest_checkpoint as find_latest_checkpoint
from .checkpoints.files import load_checkpoint_file as load_checkpoint_file
from .config.config import Config as Config
from .config.config import read_base as read_base
from .config.config_dict import ConfigDict as ConfigDict
from .config.overrides import DictAction as DictAction
from .data.loader import build_dataloader as build_dataloader
from .distributed import get_device as get_device
from .distributed import get_dist_info as get_dist_info
from .distributed import get_rank as get_rank
from .distributed import get_world_size as get_world_size
from .distributed import is_main_process as is_main_process
from .distributed import master_only as master_only
from .errors import CheckpointError as CheckpointError
from .errors import ConfigError as ConfigError
from .errors import ConfigErrors as ConfigErrors
from .errors import ConfigFileError as ConfigFileError
from .errors import HookPointError as HookPointError
from .errors import MissingExtraError as MissingExtraError
from .errors import Origin as Origin
from .errors import TrainingError as TrainingError
from .errors import TrainwrightError as TrainwrightError
from .errors import UnknownTypeError as UnknownTypeError
from .evaluation.evaluator import Evaluator as Evaluator
from .evaluation.metric import BaseMetric as BaseMetric
from .evaluation.metric import BatchMetric as BatchMetric
from .evaluation.metric import get_metric_value as get_metric_value
from .evaluation.metrics import DumpResults as DumpResults
from .evaluation.metrics import TorchMetric as TorchMetric
from .fileio import (
    dict_from_file as dict_from_file,
)
from .fileio import (
    dump as dump,
)
from .fileio import (
    list_from_file as list_from_file,
)
from .fileio import (
    load as load,
)
from .inference.inferencer import BaseInferencer as BaseInferencer
from .inference.inferencer import Inferencer as Inferencer
from .optim.amp import AmpOptimWrapper as AmpOptimWrapper
from .optim.amp import autocast as autocast
from .optim.constructor import DefaultOptimWrapperConstructor as DefaultOptimWrapperConstructor
from .optim.constructor import (
    LearningRateDecayOptimWrapperConstructor as LearningRateDecayOptimWrapperConstructor,
)
from .optim.constructor import build_optim_wrapper as build_optim_wrapper
from .optim.optimizers import build_optimizer as build_optimizer
from .optim.param_scheduler import ParamScheduler as ParamScheduler
from .optim.param_scheduler import Schedule as Schedule
from .optim.rules import ConstantParamScheduler as ConstantParamScheduler
from .optim.rules import CosineAnnealingParamScheduler as CosineAnnealingParamScheduler
from .optim.rules import CosineRestartParamScheduler as CosineRestartParamScheduler
from .optim.rules import ExponentialParamScheduler as ExponentialParamScheduler
from .optim.rules import LinearParamScheduler as LinearParamScheduler
from .optim.rules import MultiStepParamScheduler as MultiStepParamScheduler
from .optim.rules import OneCycleParamScheduler as OneCycleParamScheduler
from .optim.rules import PolyParamScheduler as PolyParamScheduler
from .optim.rules import ReduceOnPlateauParamScheduler as ReduceOnPlateauParamScheduler
from .optim.rules import StepParamScheduler as StepParamScheduler
from .optim.scheduler_resume import resume_param_schedulers as resume_param_schedulers
from .optim.schedulers import ConstantLR as ConstantLR
from .optim.schedulers import ConstantMomentum as ConstantMomentum
from .optim.schedulers import CosineAnnealingLR as CosineAnnealingLR
from .optim.schedulers import CosineAnnealingMomentum as CosineAnnealingMomentum
from .optim.schedulers import CosineRestartLR as CosineRestartLR
from .optim.schedulers import CosineRestartMomentum as CosineRestartMomentum
from .optim.schedulers import ExponentialLR as ExponentialLR
from .optim.schedulers import ExponentialMomentum as ExponentialMomentum
from .optim.schedulers import LinearLR as LinearLR
from .optim.schedulers import LinearMomentum as LinearMomentum
from .optim.schedulers import MultiStepLR as MultiStepLR
from .optim.schedulers import MultiStepMomentum as MultiStepMomentum
from .optim.schedulers import OneCycleLR as OneCycleLR
from .optim.schedulers import PolyLR as PolyLR
from .optim.schedulers import PolyMomentum as PolyMomentum
from .optim.schedulers import ReduceOnPlateauLR as ReduceOnPlateauLR
from .optim.schedulers import ReduceOnPlateauMomentum as ReduceOnPlateauMomentum
from .optim.schedulers import StepLR as StepLR
from .optim.schedulers import StepMomentum as StepMomentum
from .optim.schedulers import beyond_end as beyond_end
from .optim.schedulers import build_param_scheduler as build_param_scheduler
from .optim.wrapper import OptimWrapper as OptimWrapper
from .optim.wrapper import OptimWrapperDict as OptimWrapperDict
from .records.history import HistoryBuffer as HistoryBuffer
from .records.log_processor import LogProcessor as LogProcessor
from .records.logger import MMLogger as MMLogger
from .records.logger import get_logger as get_logger
from .records.logger import print_log as print_log
from .records.message_hub import MessageHub as MessageHub
from .registry import DATA_SAMPLERS as DATA_SAMPLERS
from .registry import DATASETS as DATASETS
from .registry import EVALUATOR as EVALUATOR
from .registry import FUNCTIONS as FUNCTIONS
from .registry import HOOKS as HOOKS
from .registry import INFERENCERS as INFERENCERS
from .registry import LOG_PROCESSORS as LOG_PROCESSORS
from .registry import LOOPS as LOOPS
from .registry import METRICS as METRICS
from .registry import MODEL_WRAPPERS as MODEL_WRAPPERS
from .registry import MODELS as MODELS
from .registry import OPTIM_WRAPPER_CONSTRUCTORS as OPTIM_WRAPPER_CONSTRUCTORS
from .registry import OPTIM_WRAPPERS as OPTIM_WRAPPERS
from .registry import OPTIMIZERS as OPTIMIZERS
from .registry import PARAM_SCHEDULERS as PARAM_SCHEDULERS
from .registry import RUNNER_CONSTRUCTORS as RUNNER_CONSTRUCTORS
from .registry import RUNNERS as RUNNERS
from .registry import STRATEGIES as STRATEGIES
from .registry import TASK_UTILS as TASK_UTILS
from .registry import TRANSFORMS as TRANSFORMS
from .registry import VISBACKENDS as VISBACKENDS
from .registry import VISUALIZERS as VISUALIZERS
from .registry import WEIGHT_INITIALIZERS as WEIGHT_INITIALIZERS
from .registry import Registry as Registry
from .registry import default_scope as default_scope
from .run.base_loop import BaseLoop as BaseLoop
from .run.eval_loops import TestLoop as TestLoop
from .run.eval_loops import ValLoop as ValLoop
from .run.hook import Hook as Hook
from .run.hook import Priority as Priority
from .run.hook import get_priority as get_priority
from .run.runner import Runner as Runner
from .run.train_loops import EpochBasedTrainLoop as EpochBasedTrainLoop
from .run.train_loops import IterBasedTrainLoop as IterBasedTrainLoop
from .structures.elements import BaseDataElement as BaseDataElement
from .structures.instance_data import InstanceData as InstanceData
from .structures.label_data import LabelData as LabelData
from .structures.pixel_data import PixelData as PixelData
from .structures.sample import DataSample as DataSample
from .visualization.backends.base import BaseVisBackend as BaseVisBackend
from .visualization.backends.local import LocalVisBackend as LocalVisBackend
from .visualization.backends.mlflow import MLflowVisBackend as MLflowVisBackend
from .visualization.backends.tensorboard import TensorboardVisBackend as TensorboardVisBackend
from .visualization.backends.wandb import WandbVisBackend as WandbVisBackend
from .visualization.visualizer import Visualizer as Visualizer
