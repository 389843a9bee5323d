"""Averages the weights during training, and validates with the average."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from trainwright.engine.checkpoints.files import load_state_dict
from trainwright.engine.errors import ConfigError
from trainwright.engine.registry import HOOKS, MODELS
from trainwright.engine.run.hook import DataBatch, Hook
from trainwright.engine.run.model_setup import unwrap

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner

_PREFIX = "module."


@HOOKS.register_module()
class EMAHook(Hook):
    """Keeps an average of the weights, by default an exponential moving one, for validation and test.

    In a checkpoint ``state_dict`` holds the average, which is what one deploys, and ``ema_state_dict`` the
    weights that are trained, under ``module.…``, with the number of updates as ``steps``. A resume puts both
    back, exactly. So a run can have only one such hook.

    Cost per step: one fused update of all weights (``torch._foreach_lerp_``), from ``begin_iter`` or
    ``begin_epoch`` on; nothing before.

    Args:
        ema_type: the kind of average: ``ExponentialMovingAverage``, ``MomentumAnnealingEMA``,
            ``StochasticWeightAverage`` or any registered subclass of ``BaseAveragedModel``.
        strict_load: refuse a checkpoint whose ``ema_state_dict`` does not fit the model.
        begin_iter: first iteration, counted from 1, that is averaged.
        begin_epoch: first epoch, counted from 1, that is averaged.
        **kwargs: arguments of the average, such as ``momentum``, ``interval``, ``update_buffers``,
            ``device``.

    Raises:
        ConfigError: both beginnings are given, or one is negative or beyond the end of the training.
    """

    exclusive = "averages the weights"

    def __init__(
        self,
        ema_type: str = "ExponentialMovingAverage",
        strict_load: bool = False,
        begin_iter: int = 0,
        begin_epoch: int = 0,
        **kwargs: Any,
    ) -> None:
        if begin_iter and begin_epoch:
            raise ConfigError("EMAHook", "begin_iter and begin_epoch exclude each other", "remove one of them")
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
        """Makes the average, once for all runs of this model."""
        model = unwrap(runner.model)
        if self.ema_model is None or self.src_model is not model:
            self._make_average(model)

    def extra_modules(self) -> Iterable[nn.Module]:
        """Return the average."""
        return () if self.ema_model is None else (self.ema_model,)

    def before_train(self, runner: "Runner") -> None:
        """Check that the average ever begins, and drop a resumed one that by now begins later."""
        for name, begin, end in (
            ("begin_epoch", self.begin_epoch, runner.max_epochs),
            ("begin_iter", self.begin_iter, runner.max_iters),
        ):
            if begin > end:
                raise ConfigError(f"EMAHook.{name}", f"{begin} is beyond the end of the training, {end}")
        if self._begun and not self._is_due(runner):
            setting = f"begin_epoch={self.begin_epoch}" if self.begin_epoch else f"begin_iter={self.begin_iter}"
            runner.logger.warning("The average of the checkpoint is dropped: with %s it is still to begin.", setting)
            self._make_average(self.src_model)

    def after_train_iter(
        self,
        runner: "Runner",
        batch_idx: int,
        data_batch: DataBatch = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Takes the new weights into the average."""
        if self._is_due(runner):
            self.ema_model.update_parameters(self.src_model)

    def before_val_epoch(self, runner: "Runner") -> None:
        """Puts the average into the model."""
        self._swap_in()

    def after_val_epoch(self, runner: "Runner", metrics: dict[str, Any] | None = None) -> None:
        """Puts the trained weights back."""
        self._swap_out()

    def before_test_epoch(self, runner: "Runner") -> None:
        """Puts the average into the model."""
        self._swap_in()

    def after_test_epoch(self, runner: "Runner", metrics: dict[str, Any] | None = None) -> None:
        """Puts the trained weights back."""
        self._swap_out()

    def after_run(self, runner: "Runner") -> None:
        """Puts the trained weights back if a validation or test was cut short."""
        self._swap_out()

    def before_save_checkpoint(self, runner: "Runner", checkpoint: dict[str, Any]) -> None:
        """Adds the trained weights as ``ema_state_dict``, and puts the average in their place."""
        if not self._begun:
            self.ema_model.module.load_state_dict(self.src_model.state_dict())
        checkpoint["ema_state_dict"] = dict(self.ema_model.state_dict())
        if not self._swapped:
            _swap_state_dicts(checkpoint)

    def after_load_checkpoint(self, runner: "Runner", checkpoint: dict[str, Any]) -> None:
        """Takes the average out of a checkpoint that is resumed; of any other, the average begins anew."""
        if not runner.start.is_resumed(checkpoint):
            return
        if "ema_state_dict" not in checkpoint:
            runner.logger.warning("The checkpoint has no ema_state_dict: the average begins anew, from its weights.")
            return
        _swap_state_dicts(checkpoint)
        report = load_state_dict(
            self.ema_model, checkpoint.pop("ema_state_dict"), strict=self.strict_load, revise_keys=()
        )
        if report:
            runner.logger.warning(f"The averaged weights were not resumed as a whole:\n{report}")

    @property
    def _begun(self) -> bool:
        return int(self.ema_model.steps) > 0

    def _is_due(self, runner: "Runner") -> bool:
        return runner.epoch + 1 >= self.begin_epoch and runner.iter + 1 >= self.begin_iter

    def _make_average(self, model: nn.Module) -> None:
        self.src_model = model
        self.ema_model = MODELS.build(dict(self.ema_cfg), path="EMAHook", model=model)

    def _swap_in(self) -> None:
        if not self._swapped and self._begun:
            self._swap_ema_parameters()
            self._swapped = True

    def _swap_out(self) -> None:
        if self._swapped:
            self._swap_ema_parameters()
            self._swapped = False

    @torch.no_grad()
    def _swap_ema_parameters(self) -> None:
        """Exchanges the values of the model and of the average."""
        averaged, source = self._tensors(self.ema_model.module), self._tensors(self.src_model)
        kept = [tensor.clone() for tensor in averaged]
        torch._foreach_copy_(averaged, source)
        torch._foreach_copy_(source, kept)

    def _tensors(self, module: nn.Module) -> list[Tensor]:
        buffers = module.buffers() if self.ema_model.update_buffers else ()
        return [*module.parameters(), *buffers]


def _swap_state_dicts(checkpoint: dict[str, Any]) -> None:
    """Exchanges the weights under ``state_dict`` and those under ``ema_state_dict``."""
    model, ema = checkpoint["state_dict"], checkpoint["ema_state_dict"]
    for key in ema:
        if key.startswith(_PREFIX) and (name := key.removeprefix(_PREFIX)) in model:
            ema[key], model[name] = model[name], ema[key]
