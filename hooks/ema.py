"""Average the weights during training, and validate with the average."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from trainwright.engine.checkpoints.files import load_state_dict
from trainwright.engine.errors import ConfigError
from trainwright.engine.registry import HOOKS, MODELS
from trainwright.engine.run.hook import DataBatch, Hook
from trainwright.engine.run.model_setup import unwrap
from trainwright.engine.strategy.shards import local, reshard

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner

_PREFIX = "module."


@HOOKS.register_module()
class EMAHook(Hook):
    """Maintain an average of the weights, by default an exponential moving average, for validation and test.

    In checkpoints, ``state_dict`` contains the averaged weights, ready to deploy. ``ema_state_dict`` contains the
    trained weights under ``module.…``, and the number of updates as ``steps``. A resume restores both exactly. A
    run can have only one hook of this kind.

    Cost per step: one fused update of all weights (``torch._foreach_lerp_``), from ``begin_iter`` or
    ``begin_epoch`` on; none before.

    Args:
        ema_type: type of average: ``ExponentialMovingAverage``, ``MomentumAnnealingEMA``,
            ``StochasticWeightAverage`` or any registered subclass of ``BaseAveragedModel``.
        strict_load: raise an error if the ``ema_state_dict`` of a resumed checkpoint does not match the model.
        begin_iter: first iteration to average, counted from 1.
        begin_epoch: first epoch to average, counted from 1.
        **kwargs: arguments of the average, such as ``momentum``, ``interval``, ``update_buffers`` or
            ``device``.

    Raises:
        ConfigError: both ``begin_iter`` and ``begin_epoch`` are set, or one of them is negative or past the end
            of training.
    """

    exclusive = "averages the weights"
    holds_memory = True

    def __init__(
        self,
        ema_type: str = "ExponentialMovingAverage",
        strict_load: bool = False,
        begin_iter: int = 0,
        begin_epoch: int = 0,
        **kwargs: Any,
    ) -> None:
        if begin_iter and begin_epoch:
            raise ConfigError("EMAHook", "begin_iter and begin_epoch are mutually exclusive", "remove one of them")
        for name, value in (("begin_iter", begin_iter), ("begin_epoch", begin_epoch)):
            if value < 0:
                raise ConfigError(f"EMAHook.{name}", f"must not be negative, but is {value}")
        self.ema_cfg: dict[str, Any] = dict(type=ema_type, **kwargs)
        self.strict_load = strict_load
        self.begin_iter = begin_iter
        self.begin_epoch = begin_epoch
        self.src_model: nn.Module
        self.ema_model: Any = None
        self._swapped = False

    def before_run(self, runner: "Runner") -> None:
        """Create the average, unless an earlier run of this model did."""
        model = unwrap(runner.model)
        if self.ema_model is None or self.src_model is not model:
            self._create_average(model)

    def extra_modules(self) -> Iterable[nn.Module]:
        """Return the averaged model."""
        return () if self.ema_model is None else (self.ema_model,)

    def before_train(self, runner: "Runner") -> None:
        """Check that the averaging starts within the run; discard a resumed average that is now set to start later."""
        for name, begin, end in (
            ("begin_epoch", self.begin_epoch, runner.max_epochs),
            ("begin_iter", self.begin_iter, runner.max_iters),
        ):
            if begin > end:
                raise ConfigError(f"EMAHook.{name}", f"{begin} is past the end of training ({end})")
        if self._started and not self._ema_started(runner):
            setting = f"begin_epoch={self.begin_epoch}" if self.begin_epoch else f"begin_iter={self.begin_iter}"
            runner.logger.warning(
                "Discarded the average from the checkpoint: with %s, the averaging has not started yet.", setting
            )
            self._create_average(self.src_model)
        runner.unsaved_weights.copy_to(self.ema_model.module)

    def after_train_iter(
        self,
        runner: "Runner",
        batch_idx: int,
        data_batch: DataBatch = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Update the average."""
        if self._ema_started(runner):
            self.ema_model.update_parameters(self.src_model)

    def before_val_epoch(self, runner: "Runner") -> None:
        """Swap the averaged weights into the model."""
        self._swap_in()

    def after_val(self, runner: "Runner") -> None:
        """Restore the trained weights."""
        self._swap_out()

    def before_test_epoch(self, runner: "Runner") -> None:
        """Swap the averaged weights into the model."""
        self._swap_in()

    def after_test(self, runner: "Runner") -> None:
        """Restore the trained weights, after the hooks that predict samples for a report."""
        self._swap_out()

    def after_run(self, runner: "Runner") -> None:
        """Restore the trained weights if a validation or test was interrupted."""
        self._swap_out()

    def before_save_checkpoint(self, runner: "Runner", checkpoint: dict[str, Any]) -> None:
        """Save the trained weights as ``ema_state_dict`` and the averaged weights as ``state_dict``."""
        if not self._started:
            self.ema_model.module.load_state_dict(self.src_model.state_dict())
        checkpoint["ema_state_dict"] = dict(self.ema_model.state_dict())
        if not self._swapped:
            _swap_state_dicts(checkpoint)

    def after_load_checkpoint(self, runner: "Runner", checkpoint: dict[str, Any]) -> None:
        """Load the average from a resumed checkpoint; with any other checkpoint, averaging starts from scratch."""
        if not runner.start.is_resumed(checkpoint):
            return
        if "ema_state_dict" not in checkpoint:
            runner.logger.warning("The checkpoint has no ema_state_dict: averaging restarts from its weights.")
            return
        _swap_state_dicts(checkpoint)
        report = load_state_dict(
            self.ema_model, checkpoint.pop("ema_state_dict"), strict=self.strict_load, revise_keys=(),
            optional={_PREFIX + name for name in runner.unsaved_weights.names},
        )  # fmt: skip
        if report:
            runner.logger.warning(f"The averaged weights were only partially resumed:\n{report}")

    @property
    def _started(self) -> bool:
        return int(self.ema_model.steps) > 0

    def _ema_started(self, runner: "Runner") -> bool:
        """Return whether this iteration is averaged. Subclasses from MMEngine call it."""
        return runner.epoch + 1 >= self.begin_epoch and runner.iter + 1 >= self.begin_iter

    def _create_average(self, model: nn.Module) -> None:
        self.src_model = model
        self.ema_model = MODELS.build(dict(self.ema_cfg), path="EMAHook", model=model)

    def _swap_in(self) -> None:
        if not self._swapped and self._started:
            self._swap_weights()
            self._swapped = True

    def _swap_out(self) -> None:
        if self._swapped:
            self._swap_weights()
            self._swapped = False

    def _swap_ema_parameters(self) -> None:
        """Swap the weights of model and average, for subclasses from MMEngine, which call it before and after."""
        if self._swapped:
            self._swap_out()
        else:
            self._swap_in()

    def _swap_ema_state_dict(self, checkpoint: dict[str, Any]) -> None:
        """Swap the weights of model and average in a checkpoint, for subclasses from MMEngine."""
        _swap_state_dicts(checkpoint)

    @property  # subclasses from MMEngine use these two, or override them with iterators
    def _src_params(self) -> list[Tensor]:
        return self._tensors(self.src_model)

    @property
    def _ema_params(self) -> list[Tensor]:
        return self._tensors(self.ema_model.module)

    @torch.no_grad()
    def _swap_weights(self) -> None:
        """Swap the weights of the model and of the average in place."""
        reshard(self.src_model)
        averaged, source = self._tensors(self.ema_model.module), self._tensors(self.src_model)
        copies = [tensor.clone() for tensor in averaged]
        torch._foreach_copy_(averaged, source)
        torch._foreach_copy_(source, copies)

    def _tensors(self, module: nn.Module) -> list[Tensor]:
        buffers = module.buffers() if self.ema_model.update_buffers else ()
        return [local(tensor) for tensor in (*module.parameters(), *buffers)]


def _swap_state_dicts(checkpoint: dict[str, Any]) -> None:
    """Swap the weights in ``state_dict`` and ``ema_state_dict``."""
    model, ema = checkpoint["state_dict"], checkpoint["ema_state_dict"]
    for key in ema:
        if key.startswith(_PREFIX) and (name := key.removeprefix(_PREFIX)) in model:
            ema[key], model[name] = model[name], ema[key]
