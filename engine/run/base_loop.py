"""The base class of all loops."""

from typing import TYPE_CHECKING, Any, ClassVar

from trainwright.engine.errors import TrainwrightError
from trainwright.engine.run.agreement import agree_on_data
from trainwright.engine.run.first_batch import check_files, check_labels, explain
from trainwright.engine.signatures import accepted

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
        self._mode = mode
        self._is_tried = False
        self._trial_batch: Any = None
        build = runner.build_dataloader
        diff_rank_seed = runner._randomness_cfg["diff_rank_seed"]
        self.dataloader = build(
            dataloader, seed=runner.seed, diff_rank_seed=diff_rank_seed, **accepted(build, mode=mode)
        )
        agree_on_data(runner, self.dataloader, mode)
        check_files(self.dataloader, mode)

    @property
    def runner(self) -> "Runner":
        """The run that this loop belongs to."""
        return self._runner

    def _try_batch(self, data_batch: Any) -> None:
        """Check the labels of the first batch, and keep it until the next, to explain an error that it causes."""
        if self._trial_batch is None:
            check_labels(self.runner, self.dataloader, data_batch, self._mode)
            self._trial_batch = data_batch
        else:
            self._end_trial()

    def _end_trial(self) -> None:
        self._trial_batch, self._is_tried = None, True

    def explain(self, error: Exception) -> TrainwrightError | None:
        """Return the error to raise instead of one that the first batch caused, or None if its cause is not known."""
        return None if self._trial_batch is None else explain(error, self._trial_batch, self.runner, self._mode)

    def run(self) -> Any:
        """Run the loop."""
        raise NotImplementedError
