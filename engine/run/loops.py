"""The loops of a run: training by epochs or by iterations, validation, test."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from inspect import signature
from itertools import count, islice
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from trainwright.engine.data.loader import (
    is_endless,
    keeps_position,
    position_of,
    positioned_sampler,
    sample_indices,
    samples_in_batch,
    samples_that_count,
    start_at,
)
from trainwright.engine.data.streams import StreamLoader
from trainwright.engine.errors import CheckpointError, ConfigError, TrainingError
from trainwright.engine.evaluation.evaluator import Evaluator
from trainwright.engine.optim.amp import autocast
from trainwright.engine.registry import LOOPS
from trainwright.engine.run.micro_batches import REMEDIES, MicroBatches, is_out_of_memory
from trainwright.engine.run.model_setup import unwrap

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner


_END = object()


class BaseLoop:
    """Base of all loops.

    Args:
        runner: the run that this loop belongs to.
        dataloader: a loader, or its config.
        mode: ``train``, ``val`` or ``test``.
    """

    by_epoch: ClassVar[bool] = True
    """Whether a training loop of this class counts in epochs, and not in iterations only."""

    def __init__(self, runner: "Runner", dataloader: Any, mode: str = "train") -> None:
        self._runner = runner
        self.dataloader = runner.build_dataloader(dataloader, mode=mode)

    @property
    def runner(self) -> "Runner":
        """The run that this loop belongs to."""
        return self._runner

    def run(self) -> Any:
        """Runs the loop."""
        raise NotImplementedError


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
        self._data_restored = False
        self._batches: Iterator[Any] | None = None
        self._fetched = 0

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
        return _length(self.dataloader)

    @property
    def max_epochs(self) -> int:
        """How many epochs to train."""
        raise NotImplementedError

    @property
    def max_iters(self) -> int:
        """How many iterations to train."""
        raise NotImplementedError

    @property
    def sample_indices(self) -> list[int] | None:
        """Dataset indices of the current batch of this rank, or None where they cannot be worked out."""
        raise NotImplementedError

    @property
    def stopping(self) -> bool:
        """Whether somebody asked for an end of the training."""
        return self.stop_training or self._state.stop_reason is not None

    def _train_step(self, batch_idx: int, data_batch: Any) -> None:
        runner, state = self._runner, self._state
        runner.seed_step(state.iter)
        runner.call_hook("before_train_iter", batch_idx=batch_idx, data_batch=data_batch)
        try:
            if self._micro_batches is None:
                outputs = runner.model.train_step(data_batch, optim_wrapper=runner.optim_wrapper)
            else:
                outputs = self._micro_batches.train_step(data_batch)
        except RuntimeError as error:
            if is_out_of_memory(error):
                error.add_note(f"in iteration {state.iter + 1}: {REMEDIES}")
                if runner.optim_wrapper.has_completed(state.iter):  # the weights are those of the iteration before
                    self._stop_intact("out of memory")
            raise
        runner.call_hook("after_train_iter", batch_idx=batch_idx, data_batch=data_batch, outputs=outputs)
        state.iter += 1
        state.inner_iter += 1

    def _decide_current_val_interval(self) -> None:
        if len(self._intervals) > 1:
            progress = self.epoch if self.by_epoch else self.iter
            self._val_interval = self._intervals[bisect_right(self._intervals, progress, key=_first) - 1][1]

    def _validate_if_due(self) -> None:
        """Validate if that is due and not done yet: a resumed run catches up on what a cut or a stop left undone."""
        progress, end = (self.epoch, self.max_epochs) if self.by_epoch else (self.iter, self.max_iters)
        due = progress >= self.val_begin and progress > 0 and (progress % self.val_interval == 0 or progress == end)
        if not (self._runner.has_val and due) or self._state.validated_at == self._state.iter:
            return
        if self._state.stop_reason is not None:  # the checkpoint comes first
            return
        try:
            self._runner.val_loop.run()
        except Exception:
            self._stop_intact("the validation failed")
            raise
        self._runner.model.train()

    def reload_data(self) -> None:
        """Fetch the batches to come again, if any are on their way: workers have copies of the old dataset."""
        loader = self.dataloader
        if self._batches is None:
            return
        if keeps_position(loader) or positioned_sampler(loader) is not None:
            self._open_where_it_is()
        elif getattr(loader, "num_workers", 0):
            self._runner.logger.warning(
                "The data workers have copies of the dataset as it was, and this data loader cannot start in the "
                "middle of an epoch: they see the change at the next one."
            )

    def _open_where_it_is(self) -> None:
        """Begin to fetch the batches after those that the loop has got."""
        raise NotImplementedError

    def batching(self) -> dict[str, int | None]:
        """Return what the position in the data depends on.

        ``by_epoch``: whether the loop counts epochs; ``samples`` in an iteration, ``batches`` in an epoch: None where
        the loader does not say.
        """
        samples = samples_in_batch(self.dataloader)
        return {"by_epoch": self.by_epoch, "samples": samples, "batches": self.epoch_length}

    def rebatch(self, before: Mapping[str, int | None]) -> str | None:
        """Move the counters of a resumed run to the next sample due, if batches are no longer what they were.

        Args:
            before: what :meth:`batching` returned when the checkpoint was written.

        Returns:
            What was done about it, or None if nothing changed.
        """
        now = self.batching()
        before = {**now, **before}
        if before == now:
            return None
        state = self._state
        old = (state.epoch, state.iter)
        if before["by_epoch"]:
            data_pass, batch = state.epoch, state.inner_iter
            if is_endless(self.dataloader):
                data_pass, batch = 0, data_pass * (before["batches"] or 0) + batch
        else:
            data_pass, batch = position_of(self.dataloader, state.iter + state.data_shift, before["batches"])
        repeated = 0
        if before["samples"] and now["samples"]:
            batch, repeated = divmod(batch * before["samples"], now["samples"])
        if now["batches"] is not None and batch >= now["batches"] and not is_endless(self.dataloader):
            batch, repeated = now["batches"], 0
        validated = state.validated_at == state.iter
        self._move_to(data_pass, batch)
        if before["by_epoch"] and not self.by_epoch:
            state.epoch = 0
        if validated:
            state.validated_at = state.iter
        text = f"The checkpoint is of a run with other batches ({_difference(before, now)})."
        if (state.epoch, state.iter) != old:
            text += f" Epoch {old[0]}, iteration {old[1]} is now epoch {state.epoch}, iteration {state.iter}."
        text += " Training continues with the next sample due"
        if repeated and not self._data_restored:
            text += f"; {repeated} that were seen come again, since a batch begins with them"
        return f"{text}."

    def _move_to(self, data_pass: int, batch: int) -> None:
        """Set the counters so that training continues with a batch of a pass over the data."""
        raise NotImplementedError

    def data_state(self) -> dict[str, Any] | None:
        """Return the state of a loader that keeps its own position; None for one whose position is a number."""
        return dict(self.dataloader.state_dict()) if keeps_position(self.dataloader) else None

    def load_data_state(self, state: Mapping[str, Any]) -> None:
        """Make the loader continue where :meth:`data_state` was taken."""
        if not keeps_position(self.dataloader):
            raise CheckpointError("the checkpoint holds the state of a data loader that kept one; this run's does not")
        self.dataloader.load_state_dict(state)
        self._data_restored = True

    def _open_data(self, data_pass: int, batch: int) -> None:
        """Begin to fetch batches, from one of a pass over the data on."""
        loader = self.dataloader
        if self._batches is not None and (state := self.data_state()) is not None:
            self.load_data_state(state)  # in the midst of a pass: after the last batch that it yielded
        left = None
        if self._data_restored:
            self._data_restored = False
        elif not start_at(loader, data_pass, batch):
            if keeps_position(loader):
                raise CheckpointError(
                    "the checkpoint was written in the middle of an epoch and has no state of a data loader, but this "
                    "run's loader keeps its own position: resume from the end of an epoch, or start from the weights"
                )
            left = None if self.epoch_length is None else max(0, self.epoch_length - batch)
            if left != 0:
                self._runner.logger.warning(
                    "this data loader cannot start in the middle of an epoch: it begins again with the first sample, "
                    "so some samples are seen twice%s. A loader that is described in the config over a dataset with "
                    "indices, or over an iterable one with state_dict() and load_state_dict(), resumes exactly.",
                    "" if left is None else ", and as many at the end of the epoch are left out",
                )
        self._batches = islice(iter(loader), left) if left != 0 else iter(())

    def _next(self) -> Any:
        assert self._batches is not None
        try:
            return next(self._batches)
        except StopIteration:
            self._batches = None
            return _END
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

    @property
    def sample_indices(self) -> list[int] | None:
        return sample_indices(self.dataloader, self.epoch, self._state.inner_iter)

    def run(self) -> torch.nn.Module:
        """Trains to the end, or until somebody asks to stop."""
        self._began_at = self._state.iter
        self.runner.call_hook("before_train")
        self._decide_current_val_interval()
        self.runner.start_host_streams()  # a validation that is caught up on may save them
        if self._state.inner_iter == 0:
            self._validate_if_due()
        while self._epoch < self._max_epochs and not self.stopping:
            if positioned_sampler(self.dataloader) is not None:  # for a run_epoch that just iterates over the loader
                start_at(self.dataloader, self._epoch, self._state.inner_iter)
            self.run_epoch()
            if self._state.inner_iter:  # stopped in the middle
                break
            self._decide_current_val_interval()
            self._validate_if_due()
        self.runner.call_hook("after_train")
        return self.runner.model  # type: ignore[no-any-return]  # any module with train_step

    def run_epoch(self) -> None:
        """Trains one epoch, from where the counters stand."""
        state, start = self._state, self._state.inner_iter
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        after_an_end = self._data_restored and start == 0
        self._open_data(self._epoch, start)
        for idx in count(start):
            data_batch = self._next()
            if data_batch is _END and after_an_end and idx == 0:  # what the loader was restored to: the epoch before
                self._open_data(self._epoch, 0)
                data_batch = self._next()
            if data_batch is _END:
                break
            self._fetched = idx + 1
            self.run_iter(idx, data_batch)
            if state.stop_reason is not None:
                # The length of a stream with state may be a guess; whether it has ended shows when it is resumed.
                if idx + 1 < len(self.dataloader) or keeps_position(self.dataloader):
                    return
                break
        self._batches = None
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1

    def _open_where_it_is(self) -> None:
        self._open_data(self._epoch, self._fetched)

    def _move_to(self, data_pass: int, batch: int) -> None:
        state = self._state
        state.epoch, state.inner_iter, state.data_shift = data_pass, batch, 0
        state.iter = data_pass * (self.epoch_length or 0) + batch

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Trains one iteration.

        Args:
            idx: 0-based index of the batch in its epoch.
            data_batch: the batch as the loader yields it.
        """
        self._train_step(idx, data_batch)


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
        self._pass = 0

    @property
    def max_epochs(self) -> int:
        return 1

    @property
    def max_iters(self) -> int:
        return self._max_iters

    @property
    def sample_indices(self) -> list[int] | None:
        data_pass, batch = position_of(self.dataloader, self._iter + self._state.data_shift)
        return sample_indices(self.dataloader, data_pass, batch)

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
            self._open_at(self._iter)
            while self._iter < self._max_iters and not self.stopping:
                data_batch = self._next_batch()
                self._fetched = self._iter + 1
                self.run_iter(data_batch)
                self._decide_current_val_interval()
                self._validate_if_due()
            if state.stop_reason is None:
                self._batches = None
                runner.call_hook("after_train_epoch")
                self._epoch += 1
        runner.call_hook("after_train")
        return runner.model  # type: ignore[no-any-return]

    def run_iter(self, data_batch: Any) -> None:
        """Trains one iteration.

        Args:
            data_batch: the batch as the loader yields it.
        """
        self._train_step(self._iter, data_batch)

    def _open_where_it_is(self) -> None:
        self._open_at(self._fetched)

    def _open_at(self, iteration: int) -> None:
        self._pass, batch = position_of(self.dataloader, iteration + self._state.data_shift)
        self._open_data(self._pass, batch)
        if isinstance(self.dataloader, StreamLoader):  # it knows better
            self._pass = self.dataloader.epoch

    def _move_to(self, data_pass: int, batch: int) -> None:
        self._state.data_shift = data_pass * (self.epoch_length or 0) + batch - self._state.iter

    def _next_batch(self) -> Any:
        data_batch = self._next()
        if data_batch is _END:
            self._pass += 1
            self._open_data(self._pass, 0)
            data_batch = self._next()
        if data_batch is _END:
            raise TrainingError("the training data loader yields no batch")
        return data_batch


def _first(pair: tuple[int, int]) -> int:
    return pair[0]


def _difference(before: Mapping[str, int | None], now: Mapping[str, int | None]) -> str:
    names = {
        "by_epoch": "training by epochs",
        "samples": "samples in an iteration",
        "batches": "iterations in an epoch",
    }
    changed = [key for key in names if before[key] != now[key]]
    return ", ".join(f"{names[key]}: {before[key]} → {now[key]}" for key in changed)


def _length(dataloader: Any) -> int | None:
    """Returns how many batches a loader has, or None if it does not know."""
    try:
        return len(dataloader)
    except TypeError:
        return None


class _EvaluationLoop(BaseLoop):
    """Goes over a data set once, without gradients, and evaluates the predictions.

    Args:
        runner: the run that this loop belongs to.
        dataloader: a loader, or its config.
        evaluator: an :class:`Evaluator`, or the config of one metric or of several.
        fp16: run in mixed precision.
        with_loss: also compute the losses, averaged over the batches, as metrics ``loss`` and ``loss_*``.
    """

    mode = "val"

    def __init__(
        self, runner: "Runner", dataloader: Any, evaluator: Any, fp16: bool = False, with_loss: bool = False
    ) -> None:
        super().__init__(runner, dataloader, self.mode)
        if is_endless(self.dataloader):
            hint = "an evaluation needs an end: sampler=dict(type='DefaultSampler', shuffle=False)"
            raise ConfigError(f"{self.mode}_dataloader.sampler", "this sampler never comes to an end", hint)
        self.evaluator: Evaluator = runner.build_evaluator(evaluator, path=f"{self.mode}_evaluator")
        metainfo = getattr(getattr(self.dataloader, "dataset", None), "metainfo", None)
        if metainfo is not None:
            self.evaluator.dataset_meta = metainfo
            runner.visualizer.dataset_meta = metainfo
        self.fp16 = fp16
        self.with_loss = with_loss
        self._check_with_loss()
        self._losses: dict[str, torch.Tensor] = {}

    def run(self) -> dict[str, Any]:
        """Evaluates once.

        Returns:
            The metrics by ``prefix/name``; empty when the run was told to stop in the middle.
        """
        with self.runner.seed_step.evaluation(self.runner.state.iter):
            return self._run()

    def _run(self) -> dict[str, Any]:
        runner, mode = self.runner, self.mode
        runner.call_hook(f"before_{mode}")
        runner.call_hook(f"before_{mode}_epoch")
        self._check_with_loss()  # a hook may have wrapped the model
        runner.model.eval()
        self._losses = {}
        start_at(self.dataloader, 0, 0)
        number = 0
        for number, data_batch in enumerate(self.dataloader, 1):
            self.run_iter(number - 1, data_batch)
            if runner.state.stop_signal:
                self.evaluator.reset()
                return {}
        metrics = self.evaluator.evaluate(samples_that_count(self.dataloader))
        metrics.update({name: total.item() / number for name, total in self._losses.items()})
        runner.call_hook(f"after_{mode}_epoch", metrics=metrics)
        self._mark_done()
        runner.call_hook(f"after_{mode}")
        return metrics

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Predicts one batch and hands the predictions to the evaluator.

        Args:
            idx: 0-based index of the batch.
            data_batch: the batch as the loader yields it.
        """
        runner, mode = self.runner, self.mode
        runner.call_hook(f"before_{mode}_iter", batch_idx=idx, data_batch=data_batch)
        step = runner.model.val_step if mode == "val" else runner.model.test_step
        with autocast(device_type=runner.device.type, enabled=self.fp16):
            if self.with_loss:
                outputs, losses = step(data_batch, with_loss=True)
                for name, value in losses.items():
                    self._losses[name] = self._losses.get(name, 0.0) + value.detach()
            else:
                outputs = step(data_batch)
        self.evaluator.process(data_samples=outputs, data_batch=data_batch)
        runner.call_hook(f"after_{mode}_iter", batch_idx=idx, data_batch=data_batch, outputs=outputs)

    def _check_with_loss(self) -> None:
        """Raise a ``ConfigError`` if the losses are asked for and the model's step does not compute any."""
        model = unwrap(self.runner.model)
        step = getattr(model, f"{self.mode}_step", None)
        if not self.with_loss or step is None:
            return
        parameters = signature(step).parameters
        if "with_loss" not in parameters and not any(each.kind == each.VAR_KEYWORD for each in parameters.values()):
            message = f"{self.mode}_step of {type(model).__name__} takes no with_loss: it computes no losses"
            raise ConfigError(f"{self.mode}_cfg.with_loss", message, "leave it out")

    def _mark_done(self) -> None:
        """Notes that the evaluation is complete."""


@LOOPS.register_module()
class ValLoop(_EvaluationLoop):
    __doc__ = _EvaluationLoop.__doc__
    mode = "val"

    def _mark_done(self) -> None:
        self.runner.state.validated_at = self.runner.state.iter


@LOOPS.register_module()
class TestLoop(_EvaluationLoop):
    __doc__ = _EvaluationLoop.__doc__
    mode = "test"
    __test__ = False  # no test case, whatever pytest makes of the name
