"""The base class of all loops."""

from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar

from trainwright.engine.data.several import batches_of, loaders_of
from trainwright.engine.data.traits import metainfo_of
from trainwright.engine.errors import TrainwrightError
from trainwright.engine.run.agreement import agree_on_data
from trainwright.engine.run.first_batch import check_files, check_labels, explain
from trainwright.engine.signatures import accepted

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner


class BaseLoop:
    """Base class of all loops.

    A training loop that derives from it counts with ``self._epoch`` and ``self._iter``, which are the counters of the
    run: they are saved in checkpoints, and a resumed run sets them.

    Args:
        runner: the run that this loop belongs to.
        dataloader: a data loader, or its config.
        mode: ``train``, ``val`` or ``test``; by default, the one for which the Runner builds the loop.
    """

    by_epoch: ClassVar[bool] = True
    """Whether a training loop of this class counts epochs, not only iterations. By default, a loop with an argument
    ``max_iters`` but no ``max_epochs`` does not."""

    # for loops with a constructor of their own that does not call this one, such as mmagic's MultiValLoop
    _stop_training = False
    _is_tried = False
    _trial_batch: Any = None
    _trial_path = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        constructors = [vars(base)["__init__"] for base in cls.__mro__ if "__init__" in vars(base)]
        names = {name for constructor in constructors for name in signature(constructor).parameters}
        if cls.by_epoch and "by_epoch" not in vars(cls) and "max_iters" in names and "max_epochs" not in names:
            cls.by_epoch = False

    def __init__(self, runner: "Runner", dataloader: Any, mode: str | None = None) -> None:
        self._runner = runner
        self._state = runner.state
        self._mode = mode = mode or runner._building
        self._trial_path = f"{mode}_dataloader"
        build = runner.build_dataloader
        diff_rank_seed = runner._randomness_cfg["diff_rank_seed"]
        self.dataloader = build(
            dataloader, seed=runner.seed, diff_rank_seed=diff_rank_seed, **accepted(build, mode=mode)
        )
        first: dict[str, Any] | None = None
        for path, loader in loaders_of(self.dataloader, f"{mode}_dataloader").items():
            agree_on_data(runner, loader, mode, path, first)
            check_files(loader, path)
            first = first or metainfo_of(loader)

    @property
    def runner(self) -> "Runner":
        """The run that this loop belongs to."""
        return self._runner

    @property
    def _epoch(self) -> int:
        return self._state.epoch

    @_epoch.setter
    def _epoch(self, value: int) -> None:
        self._state.epoch = value
        self._state.inner_iter = 0

    @property
    def _iter(self) -> int:
        return self._state.iter

    @_iter.setter
    def _iter(self, value: int) -> None:
        self._state.inner_iter += value - self._state.iter
        self._state.iter = value

    @property
    def stop_training(self) -> bool:
        """Whether a training loop should end: it was told to, or the run is to stop."""
        return self._stop_training or self._state.stop_reason is not None

    @stop_training.setter
    def stop_training(self, value: bool) -> None:
        self._stop_training = value

    def _try_batch(self, data_batch: Any) -> None:
        """Check the labels of the first batch, and keep it until the next, to explain an error that it causes."""
        if self._trial_batch is None:
            loaders = loaders_of(self.dataloader, f"{self._mode}_dataloader")
            for path, batch in batches_of(data_batch, self._trial_path).items():
                check_labels(self.runner, loaders[path], batch, self._mode, path)
            self._trial_batch = data_batch
        else:
            self._end_trial()

    def _end_trial(self) -> None:
        self._trial_batch, self._is_tried = None, True

    def explain(self, error: Exception) -> TrainwrightError | None:
        """Return the error to raise instead of one that the first batch caused, or None if its cause is not known."""
        return None if self._trial_batch is None else explain(error, self._trial_batch, self.runner, self._trial_path)

    def run(self) -> Any:
        """Run the loop."""
        raise NotImplementedError
