"""Who trains: one module for each. Its function takes a job, a network for it, and a folder to write in."""

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
    """Somebody who trains.

    Args:
        name: as on the command line and in the table.
        module: where its function is.
        function: name of the function.
        package: what must be installed for it.
        jobs: names of the jobs that it takes; all if empty.
    """

    name: str
    module: str
    function: str = "train"
    package: str = "torch"
    jobs: tuple[str, ...] = ()

    @property
    def installed(self) -> bool:
        """Whether its package is."""
        return find_spec(self.package) is not None

    def takes(self, job: str) -> bool:
        """Whether it trains the job of this name."""
        return not self.jobs or job in self.jobs

    def load(self) -> Train:
        """Returns its function."""
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
