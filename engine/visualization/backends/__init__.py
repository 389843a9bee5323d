"""Where a run's scalars, images and config are written to, one backend a file."""

from trainwright.engine.visualization.backends.base import BaseVisBackend, force_init_env
from trainwright.engine.visualization.backends.local import LocalVisBackend
from trainwright.engine.visualization.backends.mlflow import MLflowVisBackend
from trainwright.engine.visualization.backends.tensorboard import TensorboardVisBackend
from trainwright.engine.visualization.backends.wandb import WandbVisBackend

__all__ = [
    "BaseVisBackend",
    "LocalVisBackend",
    "MLflowVisBackend",
    "TensorboardVisBackend",
    "WandbVisBackend",
    "force_init_env",
]
