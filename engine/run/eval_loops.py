"""The validation and test loops."""

from inspect import signature
from itertools import count
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainwright.engine.data.cursor import END
from trainwright.engine.data.loader import (
    batch_of,
    is_endless,
    iterate,
    num_padding,
    num_unpadded_samples,
    start_at,
)
from trainwright.engine.data.several import NamedLoaders, loaders_of
from trainwright.engine.data.traits import metainfo_of
from trainwright.engine.distributed import all_gather_object, value_of_main_process
from trainwright.engine.errors import ConfigError
from trainwright.engine.evaluation.evaluator import NamedEvaluators, is_built
from trainwright.engine.evaluation.samples import number_of
from trainwright.engine.model_traits import use_classes
from trainwright.engine.optim.amp import autocast
from trainwright.engine.parts import is_by_name
from trainwright.engine.ranks.buffers import averaged_buffers
from trainwright.engine.ranks.consensus import Consensus
from trainwright.engine.registry import LOOPS
from trainwright.engine.run.agreement import check_evaluator
from trainwright.engine.run.base_loop import BaseLoop
from trainwright.engine.run.eval_losses import Losses, losses_of_all_ranks, update_losses
from trainwright.engine.run.micro_batches import num_samples
from trainwright.engine.run.model_setup import unwrap
from trainwright.engine.signatures import accepted
from trainwright.engine.strategy.shards import reshard

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner


def sets_of(loop: Any) -> list[tuple[str, Any, Any]]:
    """Return the name, data loader and evaluator of each dataset of a loop; the name of a single one is empty."""
    if isinstance(loop.dataloader, NamedLoaders):
        return [(name, loader, loop.evaluator.evaluators[name]) for name, loader in loop.dataloader.loaders.items()]
    return [("", loop.dataloader, loop.evaluator)]


class _EvaluationLoop(BaseLoop):
    """Evaluate the predictions for a dataset, in one pass without gradients.

    Predictions may end with losses, ``BaseDataElement(loss=dict(...))``: their means over the batches become metrics,
    and their sum ``val_loss`` or ``test_loss``.

    With several data loaders, they are evaluated one after the other, each by its own evaluator. The metrics of each
    are prefixed with its name, such as ``clean/accuracy/top1``.

    Args:
        runner: the run that this loop belongs to.
        dataloader: a data loader, or its config; or several by name.
        evaluator: an :class:`Evaluator`, or the config of one or several metrics. For several data loaders, a config
            that holds for each, or a dict of configs by the names of the loaders.
        fp16: use mixed precision.
        with_loss: also compute the losses, averaged over the samples, as metrics ``loss`` and ``loss_*``.
    """

    mode = "val"

    def __init__(
        self, runner: "Runner", dataloader: Any, evaluator: Any, fp16: bool = False, with_loss: bool = False
    ) -> None:
        super().__init__(runner, dataloader, self.mode)
        for path, loader in loaders_of(self.dataloader, f"{self.mode}_dataloader").items():
            if is_endless(loader):
                hint = "use sampler=dict(type='DefaultSampler', shuffle=False)"
                raise ConfigError(f"{path}.sampler", "an endless sampler cannot be evaluated", hint)
        self.evaluator: Any = self._build_evaluator(evaluator)
        for name, loader, each in sets_of(self):
            if (metainfo := metainfo_of(loader)) is not None:
                each.dataset_meta = metainfo
                runner.visualizer.dataset_meta = metainfo
                check_evaluator(runner, each, ".".join(filter(None, (f"{self.mode}_evaluator", name))))
        self.fp16 = fp16
        self.with_loss = with_loss
        self._check_with_loss()
        repeated = sum(num_padding(loader) for _, loader, _ in sets_of(self))
        if with_loss and repeated:
            runner.logger.warning(
                "%s_cfg.with_loss: the losses count %d samples twice, which the sampler repeats so that all processes "
                "get the same number. Set round_up=False in the sampler, or leave it out.", self.mode, repeated,
            )  # fmt: skip
        self._losses: dict[str, Tensor | float] = {}
        self._loss_samples = 0
        self._returned_losses: Losses = {}
        self._tried: set[str] = set()
        self._seen = 0
        self.num_samples: dict[str, int] = {}
        """The number of evaluated samples, by the name of the dataset; the name of a single one is empty."""

    def _build_evaluator(self, given: Any) -> Any:
        """Build the evaluator, or one for each of several data loaders."""
        path, build = f"{self.mode}_evaluator", self._runner.build_evaluator
        if not isinstance(self.dataloader, NamedLoaders):
            return build(given, **accepted(build, path=path))
        names = list(self.dataloader.loaders)
        if is_by_name(given, names):
            return NamedEvaluators(
                {name: build(given[name], **accepted(build, path=f"{path}.{name}")) for name in names}
            )
        if is_built(given):
            message = "a metric or evaluator that is already built cannot evaluate several data loaders"
            raise ConfigError(path, message, "pass a config, or one evaluator for each: dict(name=...)")
        return NamedEvaluators({name: build(given, **accepted(build, path=path)) for name in names})

    def run(self) -> dict[str, Any]:
        """Run the evaluation.

        Returns:
            The metrics by ``prefix/name``; empty if the run was interrupted before the last batch.
        """
        runner, mode = self.runner, self.mode
        with runner.seed_step.evaluation(runner.state.iter):
            runner.call_hook(f"before_{mode}")
            runner.call_hook(f"before_{mode}_epoch")
            self._check_with_loss()  # a hook may have wrapped the model
            runner.model.eval()
            found: dict[str, Any] = {}
            batches = 0
            for name, loader, evaluator in sets_of(self):
                if name:
                    self._begin_set(name, loader)
                self._losses, self._loss_samples, self._seen = {}, 0, 0
                self._returned_losses.clear()
                use_classes(unwrap(runner.model), metainfo_of(loader))
                start_at(loader, 0, 0)
                with averaged_buffers(runner.model):
                    batches, is_complete = self._run_batches(loader, batches)
                if not is_complete:
                    self.evaluator.reset()
                    return {}
                self._end_trial()
                size = num_unpadded_samples(loader)
                self.num_samples[name] = min(size, sum(all_gather_object(self._seen)))
                results = {
                    **evaluator.evaluate(size), **self._mean_losses(),
                    **losses_of_all_ranks(self._returned_losses, mode),
                }  # fmt: skip
                found |= {f"{name}/{key}": value for key, value in results.items()} if name else results
            if runner.strategy.is_sharded:
                reshard(runner.model)  # a forward pass without a backward pass leaves whole weights in place
            metrics: dict[str, Any] = value_of_main_process(found)  # so that whatever decides, decides alike
            runner.call_hook(f"after_{mode}_epoch", metrics=metrics)
            if mode == "val":
                runner.state.validated_at = runner.state.iter
            runner.call_hook(f"after_{mode}")
            return metrics

    def _begin_set(self, name: str, loader: Any) -> None:
        """Begin with one of several data loaders."""
        self.evaluator.current = name
        self._trial_path = f"{self.mode}_dataloader.{name}"
        self._is_tried = name in self._tried
        self._tried.add(name)
        if (metainfo := metainfo_of(loader)) is not None:
            self.runner.visualizer.dataset_meta = metainfo

    def _run_batches(self, loader: Any, done: int) -> tuple[int, bool]:
        """Run all batches of a loader, and return the number of batches so far, and whether it was not interrupted.

        A rank may have fewer batches than others. It then waits for them, since any may receive a signal, and if a
        forward pass takes all ranks, it repeats its last batch, whose predictions do not count.
        """
        state, consensus = self.runner.state, Consensus(self.runner.state)
        together = self.runner.strategy.forward_is_collective
        batches, last = iter(iterate(loader)), None
        for idx in count(done):
            data_batch = next(batches, END)
            consensus.begin(more=data_batch is not END, always=together)
            if data_batch is not END:
                if not self._is_tried:
                    self._try_batch(data_batch)
                self._seen += num_samples(data_batch)
                self.run_iter(idx, data_batch)
                last = data_batch if together else None
            agreed = consensus.end()
            others_continue = state.shared and agreed.more
            if data_batch is END and together and others_continue:
                last = batch_of(loader, [0]) if last is None else last
                self._predict(last)
            if state.stop_signal:
                return idx, False
            if data_batch is END and not others_continue:
                return idx, True
        raise AssertionError("an endless count has ended")

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Predict one batch and pass the predictions to the evaluator.

        Args:
            idx: 0-based index of the batch.
            data_batch: the batch that the data loader yielded.
        """
        runner, mode = self.runner, self.mode
        runner.call_hook(f"before_{mode}_iter", batch_idx=idx, data_batch=data_batch)
        outputs, losses = self._predict(data_batch)
        if losses:
            size = number_of(outputs)
            self._loss_samples += size
            for name, value in losses.items():
                self._losses[name] = self._losses.get(name, 0.0) + value.detach() * size
        outputs, _ = update_losses(outputs, self._returned_losses)
        self.evaluator.process(data_samples=outputs, data_batch=data_batch)
        runner.call_hook(f"after_{mode}_iter", batch_idx=idx, data_batch=data_batch, outputs=outputs)

    @torch.no_grad()
    def _predict(self, data_batch: Any) -> tuple[Any, dict[str, Tensor]]:
        """Return the predictions for a batch, and its losses if they are computed."""
        model = self.runner.model
        step = model.val_step if self.mode == "val" else model.test_step
        with autocast(device_type=self.runner.device.type, enabled=self.fp16):
            return step(data_batch, with_loss=True) if self.with_loss else (step(data_batch), {})

    def _mean_losses(self) -> dict[str, float]:
        """Return the losses, averaged over the samples of all ranks."""
        if not self.with_loss:
            return {}
        totals = {name: float(total) for name, total in self._losses.items()}
        parts = all_gather_object((totals, self._loss_samples))
        number = sum(size for _, size in parts)
        names = dict.fromkeys(name for part, _ in parts for name in part)
        return {name: sum(part.get(name, 0.0) for part, _ in parts) / number for name in names}

    def _check_with_loss(self) -> None:
        """Raise a ``ConfigError`` if losses are requested but the model's step does not compute them."""
        model = unwrap(self.runner.model)
        step = getattr(model, f"{self.mode}_step", None)
        if not self.with_loss or step is None:
            return
        parameters = signature(step).parameters
        if "with_loss" not in parameters and not any(each.kind == each.VAR_KEYWORD for each in parameters.values()):
            message = f"{self.mode}_step of {type(model).__name__} cannot compute losses: it has no argument with_loss"
            raise ConfigError(f"{self.mode}_cfg.with_loss", message, "leave it out")


@LOOPS.register_module()
class ValLoop(_EvaluationLoop):
    __doc__ = _EvaluationLoop.__doc__

    @property
    def val_loss(self) -> Losses:
        """The losses that the model has returned beside its predictions."""
        return self._returned_losses

    @val_loss.setter
    def val_loss(self, losses: Losses) -> None:
        self._returned_losses = losses


@LOOPS.register_module()
class TestLoop(_EvaluationLoop):
    __doc__ = _EvaluationLoop.__doc__
    mode = "test"
    __test__ = False  # despite the name, not a test case for pytest

    @property
    def test_loss(self) -> Losses:
        """The losses that the model has returned beside its predictions."""
        return self._returned_losses

    @test_loss.setter
    def test_loss(self, losses: Losses) -> None:
        self._returned_losses = losses
