"""The training loops: epoch-based and iteration-based."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import torch

from trainwright.engine.data.cursor import END, DataCursor
from trainwright.engine.data.joint_cursor import JointCursor, make_cursor
from trainwright.engine.data.loader import PositionedLoader, is_endless, refuse_unequal_lengths
from trainwright.engine.data.several import NamedLoaders, loaders_of
from trainwright.engine.data.traits import keeps_position
from trainwright.engine.errors import CheckpointError, ConfigError
from trainwright.engine.fidelity import reproduces_mmengine
from trainwright.engine.ranks.consensus import Consensus
from trainwright.engine.ranks.failures import first_failure
from trainwright.engine.records.log_processor import num_batches
from trainwright.engine.records.logger import OF_RANK, get_logger
from trainwright.engine.registry import LOOPS
from trainwright.engine.run.base_loop import BaseLoop
from trainwright.engine.run.custom_loops import InfiniteDataloaderIterator, calc_dynamic_intervals
from trainwright.engine.run.micro_batches import OUT_OF_MEMORY_ADVICE, MicroBatches, is_out_of_memory

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner


class TrainLoop(BaseLoop):
    """Base class of the training loops: counts epochs and iterations, and validates.

    Args:
        runner: the run that this loop belongs to.
        dataloader: a data loader, or its config.
        val_begin: first epoch (or iteration), counted from 1, after which to validate.
        val_interval: number of epochs (or iterations) between validations.
        dynamic_intervals: pairs of (epoch or iteration, interval): the validation interval from that point on.
        halve_batch_on_oom: when a step runs out of memory, split its batch and all later ones into twice as many
            parts, with a single update; see :class:`MicroBatches`.
    """

    _max_epochs: int
    _max_iters: int

    def __init__(
        self,
        runner: "Runner",
        dataloader: Any,
        val_begin: int = 1,
        val_interval: int = 1,
        dynamic_intervals: Sequence[tuple[int, int]] | None = None,
        halve_batch_on_oom: bool = False,
    ) -> None:
        self.cursor: DataCursor | JointCursor = DataCursor(runner.state, self.by_epoch)
        super().__init__(runner, dataloader)
        for path, loader in loaders_of(self.dataloader, "train_dataloader").items():
            if num_batches(loader) == 0:
                cause = "the dataset is empty, or smaller than one batch with drop_last"
                raise ConfigError(path, "the loader has no batches", cause)
            refuse_unequal_lengths(loader, path)
        if isinstance(self.cursor, JointCursor):
            runner.logger.info("%s.", self.cursor.describe_shares())
        self.val_begin = val_begin
        self._val_interval = val_interval
        self._intervals = sorted(
            [(0, val_interval), *((begin, interval) for begin, interval in dynamic_intervals or ())]
        )
        self.dynamic_milestones, self.dynamic_intervals = calc_dynamic_intervals(val_interval, dynamic_intervals)
        self._consensus = Consensus(runner.state)
        self._micro_batches = MicroBatches(runner) if halve_batch_on_oom else None
        self._first_iter = 0
        self.save_after_error = False
        self._warned_of_surplus = False

    @property
    def dataloader(self) -> Any:
        """The training data loader."""
        return self.cursor.dataloader

    @dataloader.setter
    def dataloader(self, value: Any) -> None:
        if isinstance(value, NamedLoaders) or isinstance(self.cursor, JointCursor):
            self.cursor = make_cursor(self._state, self.by_epoch, value)
        else:
            self.cursor.dataloader = value

    @property
    def epoch(self) -> int:
        """0-based index of the epoch in progress."""
        return self._state.epoch

    @property
    def iter(self) -> int:
        """0-based index of the training iteration in progress."""
        return self._state.iter

    @property
    def val_interval(self) -> int:
        """Number of epochs (or iterations) between validations. Setting it discards ``dynamic_intervals``."""
        return self._val_interval

    @val_interval.setter
    def val_interval(self, value: int) -> None:
        self._val_interval = value
        self._intervals = [(0, value)]

    @property
    def epoch_length(self) -> int | None:
        """Number of batches in one pass over the data; None if unknown or infinite."""
        return self.cursor.length

    @property
    def max_epochs(self) -> int:
        """Number of epochs to train."""
        return self._max_epochs

    @property
    def max_iters(self) -> int:
        """Number of iterations to train."""
        return self._max_iters

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Train one iteration.

        Args:
            idx: 0-based index of the batch in its epoch.
            data_batch: the batch that the data loader yielded.
        """
        runner, state = self._runner, self._state
        runner.seed_step(state.iter)
        runner.call_hook("before_train_iter", batch_idx=idx, data_batch=data_batch)
        try:
            if self._micro_batches is None:
                outputs = runner.model.train_step(data_batch, optim_wrapper=runner.optim_wrapper)
            else:
                outputs = self._micro_batches.train_step(data_batch)
        except RuntimeError as error:
            if is_out_of_memory(error):
                error.add_note(f"in iteration {state.iter + 1}: {OUT_OF_MEMORY_ADVICE}")
                if runner.optim_wrapper.has_completed(state.iter):  # this iteration has not changed the weights
                    self._request_save_after_error("out of memory")
            elif self._ended_by_other_rank(error) and runner.optim_wrapper.has_completed(state.iter):
                self._request_save_after_error("another rank failed")
            raise
        runner.call_hook("after_train_iter", batch_idx=idx, data_batch=data_batch, outputs=outputs)
        state.iter += 1
        state.inner_iter += 1

    def _settle(self) -> None:
        """Agree with the other ranks on whether to stop, where all of them are at the same point."""
        self._consensus.begin(quits=self._stop_training, always=True)
        self._conclude()

    def _conclude(self) -> None:
        """Agree with the other ranks on whether to stop, at the end of an iteration."""
        try:
            self._stop_training = self._consensus.end().quits or self._stop_training
        except RuntimeError as error:
            if self._ended_by_other_rank(error):
                self._request_save_after_error("another rank failed")
            raise

    @property
    def _may_end_apart(self) -> bool:
        """Whether the data of another rank may end at an earlier batch, which only the data itself shows."""
        return self._state.shared and not isinstance(self.cursor.leading.dataloader, PositionedLoader)

    def _warn_of_surplus(self, data_batch: Any) -> None:
        if data_batch is not END and not self._warned_of_surplus:
            self._warned_of_surplus = True
            get_logger().warning(
                "There is still data at the end of epoch %d, but another rank has none: the rest is skipped. Give all "
                "ranks the same number of batches to train on every sample.",
                self.epoch + 1, extra=OF_RANK,
            )  # fmt: skip

    def _ended_by_other_rank(self, error: Exception) -> bool:
        """Return whether another rank has caused an error, and the state of this one is known to be intact.

        On an accelerator, steps may still be waiting for data of that rank.
        """
        return self._state.shared and self._runner.device.type == "cpu" and first_failure(error) is not None

    def _decide_current_val_interval(self) -> None:
        if len(self._intervals) > 1:
            progress = self.epoch if self.by_epoch else self.iter
            self._val_interval = self._intervals[bisect_right(self._intervals, progress, key=itemgetter(0)) - 1][1]

    def _validate_if_due(self) -> None:
        """Validate if due and not yet done, so that an interrupted validation is repeated on resume."""
        if not self._runner.has_val:
            return
        progress, end = (self.epoch, self.max_epochs) if self.by_epoch else (self.iter, self.max_iters)
        due = progress >= self.val_begin and progress > 0 and (progress % self.val_interval == 0 or progress == end)
        if not due or self._state.validated_at == self._state.iter:
            return
        if self._first_iter == self._state.iter and reproduces_mmengine():
            return
        if self._state.stop_reason is not None:  # save the checkpoint first; the resumed run validates
            return
        try:
            self._runner.val_loop.run()
        except Exception:
            self._request_save_after_error("the validation failed")
            raise
        self._runner.model.train()
        self._settle()

    def load_position(self, saved: Mapping[str, Any]) -> str | None:
        """Restore a saved state of the cursor, and renumber epochs and iterations if the batching has changed.

        Returns:
            A message about the change, or None if nothing changed.

        Raises:
            CheckpointError: the checkpoint is from a run with one data loader, and this one has several, or vice versa.
        """
        if isinstance(self.cursor, JointCursor) != ("loaders" in saved):
            before, now = ("several data loaders", "one") if "loaders" in saved else ("one data loader", "several")
            raise CheckpointError(f"the checkpoint is from a run with {before}, and this one has {now}: set load_from")
        if isinstance(self.cursor, JointCursor):
            return self.cursor.load_state_dict(saved, self._load_position)
        return self._load_position(self.cursor, saved)

    def _load_position(self, cursor: DataCursor, saved: Mapping[str, Any]) -> str | None:
        move = cursor.load_state_dict(saved)
        if move is None:
            return None
        state = self._state
        old, validated = (state.epoch, state.iter), state.validated_at == state.iter
        if cursor is not self.cursor.leading:
            pass
        elif self.by_epoch:
            state.epoch, state.inner_iter = move.data_pass, move.batch
            state.iter = move.data_pass * (self.epoch_length or 0) + move.batch
        elif move.before.by_epoch:
            state.epoch = 0
        if validated:
            state.validated_at = state.iter
        changes = move.before.changes(cursor.batching)
        text = f"The checkpoint was written with different batches ({changes})."
        if (state.epoch, state.iter) != old:
            text += f" Epoch {old[0]}, iteration {old[1]} is now epoch {state.epoch}, iteration {state.iter}."
        if move.before.samples is None or cursor.batching.samples is None:
            return f"{text} Training continues at the same batch: its samples are not known, so some may be repeated."
        size = cursor.pass_size
        if saved["taken"] and saved.get("size", size) != size:
            return (
                f"{text} The dataset has {size} samples (before: {saved['size']}), so the rest of this pass has "
                "another order: samples may be lost or repeated."
            )
        text += " Training continues with the next unseen sample"
        if move.repeated:
            text += f"; {move.repeated} samples are repeated, because training must continue at a batch boundary"
        return f"{text}."

    def _next_batch(self) -> Any:
        try:
            data_batch = self.cursor.next()
            if not self._is_tried:
                self._end_trial() if data_batch is END else self._try_batch(data_batch)
            return data_batch
        except Exception:
            self._request_save_after_error("the data could not be loaded")
            raise

    def _request_save_after_error(self, reason: str) -> None:
        """Request that finished iterations are saved before the current error ends the run."""
        if self._state.iter > self._first_iter:
            self._state.stop_reason = self._state.stop_reason or reason
            self.save_after_error = True


@LOOPS.register_module()
class EpochBasedTrainLoop(TrainLoop):
    """Train for a number of epochs.

    Args:
        runner: the run that this loop belongs to.
        dataloader: a data loader with a length, or its config.
        max_epochs: number of epochs to train.
        val_begin: first epoch, counted from 1, after which to validate.
        val_interval: number of epochs between validations, in addition to one after the last epoch.
        dynamic_intervals: pairs of (epoch, interval): the validation interval from that epoch on.
        halve_batch_on_oom: when a step runs out of memory, split its batch and all later ones into twice as many
            parts, with a single update; see :class:`MicroBatches`.

    Raises:
        ConfigError: ``max_epochs`` is not an integer, or the data loader is endless or has no length.
    """

    def __init__(
        self,
        runner: "Runner",
        dataloader: Any,
        max_epochs: int,
        val_begin: int = 1,
        val_interval: int = 1,
        dynamic_intervals: Sequence[tuple[int, int]] | None = None,
        halve_batch_on_oom: bool = False,
    ) -> None:
        if int(max_epochs) != max_epochs:
            raise ConfigError("train_cfg.max_epochs", f"must be an integer, not {max_epochs}")
        super().__init__(runner, dataloader, val_begin, val_interval, dynamic_intervals, halve_batch_on_oom)
        self._max_epochs = int(max_epochs)
        if self.epoch_length is None:
            hint = "train_cfg=dict(by_epoch=False, max_iters=...)"
            raise ConfigError(
                "train_dataloader", "a data loader without a length cannot be used with by_epoch=True", hint
            )
        if is_endless(self.cursor.leading.dataloader):
            hint = "train_cfg=dict(by_epoch=False, max_iters=...), or sampler=dict(type='DefaultSampler', shuffle=True)"
            raise ConfigError("train_dataloader.sampler", "an endless sampler cannot be used with by_epoch=True", hint)
        self._max_iters = self._max_epochs * self.epoch_length

    def run(self) -> torch.nn.Module:
        """Train to the end, or until a stop is requested."""
        self.cursor.begin_run()
        self._first_iter = self._state.iter
        self.runner.call_hook("before_train")
        self._decide_current_val_interval()
        self.runner.seed_step.start_training(self._state.iter)  # a repeated validation may save them
        self._settle()
        if self._state.inner_iter == 0:
            self._validate_if_due()
        while self._epoch < self._max_epochs and not self.stop_training:
            self.cursor.seek()  # for an overridden run_epoch that iterates over the loader
            self.run_epoch()
            self._settle()
            if self._state.inner_iter:  # stopped in the middle
                break
            self._decide_current_val_interval()
            self._validate_if_due()
        self.runner.call_hook("after_train")
        return self.runner.model  # type: ignore[no-any-return]  # any module with train_step

    def run_epoch(self) -> None:
        """Train one epoch, starting at the current position."""
        state = self._state
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        self.cursor.open()
        for idx in count(state.inner_iter):
            data_batch = self._next_batch()
            if self._may_end_apart and not self._consensus.everyone(data_batch is not END):
                self._warn_of_surplus(data_batch)
                data_batch = END
            if data_batch is END:
                break
            self._consensus.begin(quits=self._stop_training)
            self.run_iter(idx, data_batch)
            self._conclude()
            if state.stop_reason is not None:
                # The length of a stateful stream may be an estimate; only resuming it shows whether it has ended.
                loader = self.cursor.leading.dataloader
                if idx + 1 < len(loader) or keeps_position(loader):
                    return
                break
        self.cursor.close()
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1


@LOOPS.register_module()
class IterBasedTrainLoop(TrainLoop):
    """Train for a number of iterations, with as many passes over the data as needed.

    Args:
        runner: the run that this loop belongs to.
        dataloader: a data loader, or its config; it may be endless.
        max_iters: number of iterations to train.
        val_begin: first iteration, counted from 1, after which to validate.
        val_interval: number of iterations between validations, in addition to one after the last iteration.
        dynamic_intervals: pairs of (iteration, interval): the validation interval from that iteration on.
        halve_batch_on_oom: when a step runs out of memory, split its batch and all later ones into twice as many
            parts, with a single update; see :class:`MicroBatches`.

    Raises:
        ConfigError: ``max_iters`` is not an integer.
    """

    by_epoch = False

    def __init__(
        self,
        runner: "Runner",
        dataloader: Any,
        max_iters: int,
        val_begin: int = 1,
        val_interval: int = 1000,
        dynamic_intervals: Sequence[tuple[int, int]] | None = None,
        halve_batch_on_oom: bool = False,
    ) -> None:
        if int(max_iters) != max_iters:
            raise ConfigError("train_cfg.max_iters", f"must be an integer, not {max_iters}")
        super().__init__(runner, dataloader, val_begin, val_interval, dynamic_intervals, halve_batch_on_oom)
        self._max_epochs, self._max_iters = 1, int(max_iters)
        self._iterator: Iterator[Any] | None = None
        if reproduces_mmengine():
            self.cursor.open_early()

    @property
    def dataloader_iterator(self) -> Iterator[Any]:
        """The batches from the beginning of the data on, for an override of :meth:`run` from MMEngine.

        A hook may set other ones, which are trained on from the next iteration on. Their position is not saved.
        """
        if self._iterator is None:
            self._iterator = InfiniteDataloaderIterator(self.dataloader)
        return self._iterator

    @dataloader_iterator.setter
    def dataloader_iterator(self, value: Iterator[Any]) -> None:
        self._iterator = value
        if self.cursor.replace(value):
            get_logger().warning(
                "The training data has been replaced. The position in it is not saved: a resumed run begins it again."
            )

    def run(self) -> torch.nn.Module:
        """Train to the end, or until a stop is requested."""
        runner, state = self.runner, self._state
        self.cursor.begin_run()
        if state.iter < self._max_iters:  # possibly after max_iters of a finished run was raised
            state.epoch = 0
        if state.epoch == 0:
            state.inner_iter = state.iter
        self._first_iter = state.iter
        runner.call_hook("before_train")
        self._decide_current_val_interval()
        runner.seed_step.start_training(state.iter)
        self._settle()
        self._validate_if_due()
        if state.epoch == 0 and not self.stop_training:
            runner.call_hook("before_train_epoch")
            runner.model.train()
            self.cursor.open()
            while self._iter < self._max_iters and not self.stop_training:
                data_batch = self._next_batch()
                self._consensus.begin(quits=self._stop_training)
                self.run_iter(data_batch)
                self._conclude()
                self._decide_current_val_interval()
                self._validate_if_due()
            if state.stop_reason is None:
                self.cursor.close()
                runner.call_hook("after_train_epoch")
                self._epoch += 1
        runner.call_hook("after_train")
        return runner.model  # type: ignore[no-any-return]

    def run_iter(self, data_batch: Any) -> None:  # type: ignore[override]  # MMEngine's signature
        """Train one iteration with the batch that the data loader yielded."""
        super().run_iter(self._iter, data_batch)
