"""The loops of training: by epochs and by iterations."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

import torch

from trainwright.engine.data.cursor import END, DataCursor
from trainwright.engine.data.loader import is_endless
from trainwright.engine.data.traits import keeps_position
from trainwright.engine.errors import ConfigError
from trainwright.engine.registry import LOOPS
from trainwright.engine.run.base_loop import BaseLoop
from trainwright.engine.run.micro_batches import REMEDIES, MicroBatches, is_out_of_memory

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner


class TrainLoop(BaseLoop):
    """What both kinds of training loop share: the counters, and when to validate.

    Args:
        runner: the run that this loop belongs to.
        dataloader: a loader, or its config.
        val_begin: first epoch (or iteration), counted from 1, after which to validate.
        val_interval: validate every so many epochs (or iterations).
        dynamic_intervals: pairs of (epoch or iteration, interval): from then on the other interval.
        halve_batch_on_oom: when a step is out of memory, train its batch, and all after it, in twice as many parts
            that make one update; see :class:`MicroBatches`.
    """

    def __init__(
        self,
        runner: "Runner",
        dataloader: Any,
        val_begin: int = 1,
        val_interval: int = 1,
        dynamic_intervals: Sequence[tuple[int, int]] | None = None,
        halve_batch_on_oom: bool = False,
    ) -> None:
        self.cursor = DataCursor(runner.state, self.by_epoch)
        super().__init__(runner, dataloader)
        if self.epoch_length == 0:
            hint = "the dataset is empty, or smaller than a batch with drop_last"
            raise ConfigError("train_dataloader", "the loader has no batches", hint)
        self.val_begin = val_begin
        self._val_interval = val_interval
        later = [(begin, interval) for begin, interval in dynamic_intervals or ()]
        self._intervals = sorted([(0, val_interval), *later])
        self.stop_training = False
        self._state = runner.state
        self._micro_batches = MicroBatches(runner) if halve_batch_on_oom else None
        self._began_at = 0
        self.intact = False

    @property
    def dataloader(self) -> Any:
        """The loader of the training data."""
        return self.cursor.dataloader

    @dataloader.setter
    def dataloader(self, value: Any) -> None:
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
    def val_interval(self) -> int:
        """Validate every so many epochs (or iterations). Setting it ends the ``dynamic_intervals``."""
        return self._val_interval

    @val_interval.setter
    def val_interval(self, value: int) -> None:
        self._val_interval = value
        self._intervals = [(0, value)]

    @property
    def epoch_length(self) -> int | None:
        """How many batches one pass over the data has, or None if there is no end to it."""
        return self.cursor.length

    @property
    def max_epochs(self) -> int:
        """How many epochs to train."""
        raise NotImplementedError

    @property
    def max_iters(self) -> int:
        """How many iterations to train."""
        raise NotImplementedError

    @property
    def stopping(self) -> bool:
        """Whether somebody asked for an end of the training."""
        return self.stop_training or self._state.stop_reason is not None

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Train one iteration.

        Args:
            idx: 0-based index of the batch in its epoch.
            data_batch: the batch as the loader yields it.
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
                error.add_note(f"in iteration {state.iter + 1}: {REMEDIES}")
                wrapper = runner.optim_wrapper
                # The loss was not propagated back, so the weights are those of the iteration before.
                if getattr(wrapper, "inner_count", None) == state.iter and wrapper.should_update():
                    self._stop_intact("out of memory")
            raise
        runner.call_hook("after_train_iter", batch_idx=idx, data_batch=data_batch, outputs=outputs)
        state.iter += 1
        state.inner_iter += 1

    def _decide_current_val_interval(self) -> None:
        if len(self._intervals) > 1:
            progress = self.epoch if self.by_epoch else self.iter
            self._val_interval = self._intervals[bisect_right(self._intervals, progress, key=_first) - 1][1]

    def _validate_if_due(self) -> None:
        """Validate if that is due and not done yet: a resumed run catches up on what a cut or a stop left undone."""
        if not self._runner.has_val:
            return
        progress, end = (self.epoch, self.max_epochs) if self.by_epoch else (self.iter, self.max_iters)
        due = progress >= self.val_begin and progress > 0 and (progress % self.val_interval == 0 or progress == end)
        if not due or self._state.validated_at == self._state.iter:
            return
        if self._state.stop_reason is not None:  # the checkpoint comes first
            return
        try:
            self._runner.val_loop.run()
        except Exception:
            self._stop_intact("the validation failed")
            raise
        self._runner.model.train()

    def load_position(self, saved: Mapping[str, Any]) -> str | None:
        """Continue with the next sample due; if batches are no longer what they were, renumber epochs and iterations.

        Args:
            saved: the state of the cursor in a checkpoint.

        Returns:
            What was done about other batches, or None if nothing changed.
        """
        move = self.cursor.load_state_dict(saved)
        if move is None:
            return None
        state = self._state
        old, validated = (state.epoch, state.iter), state.validated_at == state.iter
        if self.by_epoch:
            state.epoch, state.inner_iter = move.data_pass, move.batch
            state.iter = move.data_pass * (self.epoch_length or 0) + move.batch
        elif move.before.by_epoch:
            state.epoch = 0
        if validated:
            state.validated_at = state.iter
        changes = move.before.changes(self.cursor.batching)
        text = f"The checkpoint is of a run with other batches ({changes})."
        if (state.epoch, state.iter) != old:
            text += f" Epoch {old[0]}, iteration {old[1]} is now epoch {state.epoch}, iteration {state.iter}."
        text += " Training continues with the next sample due"
        if move.repeated:
            text += f"; {move.repeated} samples are seen again, because training continues with a whole batch"
        return f"{text}."

    def _next_batch(self) -> Any:
        try:
            return self.cursor.next()
        except Exception:
            self._stop_intact("the data could not be loaded")
            raise

    def _stop_intact(self, reason: str) -> None:
        """Notes, where an error is about to end the run, that all finished iterations can still be saved."""
        if self._state.iter > self._began_at:
            self._state.stop_reason = self._state.stop_reason or reason
            self.intact = True


@LOOPS.register_module()
class EpochBasedTrainLoop(TrainLoop):
    """Trains for a number of epochs.

    Args:
        runner: the run that this loop belongs to.
        dataloader: a loader with a length, or its config.
        max_epochs: how many epochs to train.
        val_begin: first epoch, counted from 1, after which to validate.
        val_interval: validate every so many epochs, and after the last.
        dynamic_intervals: pairs of (epoch, interval): from then on the other interval.
        halve_batch_on_oom: when a step is out of memory, train its batch, and all after it, in twice as many parts
            that make one update; see :class:`MicroBatches`.

    Raises:
        ConfigError: ``max_epochs`` is no whole number.
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
            raise ConfigError("train_cfg.max_epochs", f"must be a whole number, not {max_epochs}")
        super().__init__(runner, dataloader, val_begin, val_interval, dynamic_intervals, halve_batch_on_oom)
        self._max_epochs = int(max_epochs)
        if self.epoch_length is None:
            hint = "train_cfg=dict(by_epoch=False, max_iters=...)"
            raise ConfigError("train_dataloader", "a loader without length cannot be trained on by epochs", hint)
        if is_endless(self.dataloader):
            hint = "train_cfg=dict(by_epoch=False, max_iters=...), or sampler=dict(type='DefaultSampler', shuffle=True)"
            raise ConfigError(
                "train_dataloader.sampler", "this sampler never comes to an end, nor would an epoch", hint
            )
        self._max_iters = self._max_epochs * self.epoch_length

    @property
    def max_epochs(self) -> int:
        return self._max_epochs

    @property
    def max_iters(self) -> int:
        return self._max_iters

    def run(self) -> torch.nn.Module:
        """Trains to the end, or until somebody asks to stop."""
        self._began_at = self._state.iter
        self.runner.call_hook("before_train")
        self._decide_current_val_interval()
        self.runner.start_host_streams()  # a validation that is caught up on may save them
        if self._state.inner_iter == 0:
            self._validate_if_due()
        while self._epoch < self._max_epochs and not self.stopping:
            self.cursor.seek()  # for a run_epoch that just iterates over the loader
            self.run_epoch()
            if self._state.inner_iter:  # stopped in the middle
                break
            self._decide_current_val_interval()
            self._validate_if_due()
        self.runner.call_hook("after_train")
        return self.runner.model  # type: ignore[no-any-return]  # any module with train_step

    def run_epoch(self) -> None:
        """Trains one epoch, from where the counters stand."""
        state = self._state
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        self.cursor.open()
        for idx in count(state.inner_iter):
            data_batch = self._next_batch()
            if data_batch is END:
                break
            self.run_iter(idx, data_batch)
            if state.stop_reason is not None:
                # The length of a stream with state may be a guess; whether it has ended shows when it is resumed.
                if idx + 1 < len(self.dataloader) or keeps_position(self.dataloader):
                    return
                break
        self.cursor.close()
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1


@LOOPS.register_module()
class IterBasedTrainLoop(TrainLoop):
    """Trains for a number of iterations, over and over the data.

    Args:
        runner: the run that this loop belongs to.
        dataloader: a loader, or its config; it may be endless.
        max_iters: how many iterations to train.
        val_begin: first iteration, counted from 1, after which to validate.
        val_interval: validate every so many iterations, and after the last.
        dynamic_intervals: pairs of (iteration, interval): from then on the other interval.
        halve_batch_on_oom: when a step is out of memory, train its batch, and all after it, in twice as many parts
            that make one update; see :class:`MicroBatches`.

    Raises:
        ConfigError: ``max_iters`` is no whole number.
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
            raise ConfigError("train_cfg.max_iters", f"must be a whole number, not {max_iters}")
        super().__init__(runner, dataloader, val_begin, val_interval, dynamic_intervals, halve_batch_on_oom)
        self._max_iters = int(max_iters)

    @property
    def max_epochs(self) -> int:
        return 1

    @property
    def max_iters(self) -> int:
        return self._max_iters

    def run(self) -> torch.nn.Module:
        """Trains to the end, or until somebody asks to stop."""
        runner, state = self.runner, self._state
        if state.iter < self._max_iters:  # also where max_iters was raised after the end
            state.epoch = 0
        if state.epoch == 0:
            state.inner_iter = state.iter
        self._began_at = state.iter
        runner.call_hook("before_train")
        self._decide_current_val_interval()
        runner.start_host_streams()
        self._validate_if_due()
        if state.epoch == 0 and not self.stopping:
            runner.call_hook("before_train_epoch")
            runner.model.train()
            self.cursor.open()
            while self._iter < self._max_iters and not self.stopping:
                self.run_iter(self._next_batch())
                self._decide_current_val_interval()
                self._validate_if_due()
            if state.stop_reason is None:
                self.cursor.close()
                runner.call_hook("after_train_epoch")
                self._epoch += 1
        runner.call_hook("after_train")
        return runner.model  # type: ignore[no-any-return]

    def run_iter(self, data_batch: Any) -> None:  # type: ignore[override]  # MMEngine's signature
        """Train one iteration.

        Args:
            data_batch: the batch as the loader yields it.
        """
        super().run_iter(self._iter, data_batch)


def _first(pair: tuple[int, int]) -> int:
    return pair[0]
