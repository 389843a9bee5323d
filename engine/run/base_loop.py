"""The base class of all loops."""

from typing import TYPE_CHECKING, Any, ClassVar

from trainwright.engine.run.agreement import agree_on_data

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner


class BaseLoop:
    """Base class of all loops.

    Args:
        runner: the run that this loop belongs to.
        dataloader: a data loader, or its config.
        mode: ``train``, ``val`` or ``test``.
    """

    by_epoch: ClassVar[bool] = True
    """Whether a training loop of this class counts epochs, not only iterations."""

    def __init__(self, runner: "Runner", dataloader: Any, mode: str = "train") -> None:
        self._runner = runner
        self.dataloader = runner.build_dataloader(dataloader, mode=mode)
        agree_on_data(runner, self.dataloader, mode)

    @property
    def runner(self) -> "Runner":
        """The run that this loop belongs to."""
        return self._runner

    def run(self) -> Any:
        """Run the loop."""
        raise NotImplementedError
