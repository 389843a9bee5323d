"""The contestants, one module each, with a function that trains a network on a job and writes to a folder."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from jobs import Job
from torch import nn

Train = Callable[[Job, nn.Module, Path], None]


@dataclass(frozen=True)
class Contestant:
    """A training loop to measure.

    Args:
        name: its name on the command line and in the table.
        module: the module that contains its function.
        function: the name of the function.
        package: the package that it needs.
        jobs: the names of the jobs that it can train; all if empty.
    """

    name: str
    module: str
    function: str = "train"
    package: str = "torch"
    jobs: tuple[str, ...] = ()

    @property
    def installed(self) -> bool:
        """Whether its package is installed."""
        return find_spec(self.package) is not None

    def supports(self, job: str) -> bool:
        """Return whether it can train the job with this name."""
        return not self.jobs or job in self.jobs

    def load(self) -> Train:
        """Import its function."""
        train: Train = getattr(import_module(f"contestants.{self.module}"), self.function)
        return train


CONTESTANTS = (
    Contestant("bare", "bare"),
    Contestant("bare-pil", "bare", "train_through_pil", jobs=("fashion_mnist",)),
    Contestant("ours-same", "ours", "train_same", "trainwright.engine"),
    Contestant("ours-shipped", "ours", "train_shipped", "trainwright.engine"),
    Contestant("accelerate", "with_accelerate", package="accelerate"),
    Contestant("ignite", "with_ignite", package="ignite"),
    Contestant("lightning", "with_lightning", package="lightning"),
    Contestant("mmengine", "with_mmengine", package="mmengine"),
)
