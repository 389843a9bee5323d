"""The base class of all models."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trainwright.engine.errors import TrainingError, did_you_mean
from trainwright.engine.evaluation.samples import describe
from trainwright.engine.optim.wrapper_dict import OptimWrapperDict
from trainwright.engine.registry import MODELS
from trainwright.models.module import BaseModule, InitCfg


class BaseModel(BaseModule):
    """Base class of models, with a training, validation and test step.

    Subclasses must implement :meth:`forward` with three modes:

    - ``loss``: return a dict of losses, each a tensor or a list of tensors;
    - ``predict``: return predictions for the metrics, usually data samples;
    - ``tensor``: return the raw output of the network.

    Args:
        data_preprocessor: module or config; converts a batch from the data loader to the arguments of :meth:`forward`.
            :class:`BaseDataPreprocessor`, which moves the batch to the model's device, if None.
        init_cfg: one or more initializer configs, see :class:`BaseModule`.

    Example:
        >>> class Regression(BaseModel):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.linear = nn.Linear(1, 1)
        ...     def forward(self, inputs, data_samples=None, mode="tensor"):
        ...         output = self.linear(inputs)
        ...         return {"loss": F.mse_loss(output, data_samples)} if mode == "loss" else output
    """

    def __init__(
        self,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        init_cfg: InitCfg = None,
    ) -> None:
        super().__init__(init_cfg)
        if data_preprocessor is None:
            data_preprocessor = {"type": "BaseDataPreprocessor"}
        self.data_preprocessor = MODELS.build(data_preprocessor)
        if not isinstance(self.data_preprocessor, nn.Module):
            raise TypeError(f"data_preprocessor must be a config or a module, not {data_preprocessor!r}")

    @abstractmethod
    def forward(self, inputs: Any, data_samples: Any = None, mode: str = "tensor") -> Any:
        """Return the losses, predictions or raw output for a preprocessed batch.

        Args:
            inputs: input of the network, usually a float tensor of shape (N, C, H, W).
            data_samples: ground truth: a list of data samples, one batched data sample, or a tensor of labels.
            mode: ``loss``, ``predict`` or ``tensor``.
        """

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        """Run one training step: preprocess, forward, backward, and parameter update.

        With several optimizers, see :class:`MultiOptimWrapperConstructor`, the losses may be grouped by optimizer.

        Args:
            data: a batch from the data loader.
            optim_wrapper: wrapper of the optimizer, or several in an :class:`OptimWrapperDict`.

        Returns:
            The losses to log, each a scalar tensor on the model's device; ``loss`` is the minimized one.
        """
        with optim_wrapper.optim_context(self):
            data = self.data_preprocessor(data, True)
            losses = self._run_forward(data, "loss")
        if isinstance(optim_wrapper, OptimWrapperDict):
            return self._update_each(losses, optim_wrapper)
        loss, log_vars = self.parse_losses(losses)
        update_params(loss, optim_wrapper, self)
        return log_vars

    def val_step(self, data: Any, with_loss: bool = False) -> Any:
        """Predict a validation batch.

        Args:
            data: a batch from the data loader.
            with_loss: return the losses of the batch too (``val_cfg=dict(with_loss=True)``). The batch is preprocessed
                once, in evaluation mode, so it is not augmented.

        Returns:
            The predictions, or the tuple ``(predictions, losses)`` with losses as returned by :meth:`train_step`.
        """
        return self._evaluation_step(data, with_loss)

    def test_step(self, data: Any, with_loss: bool = False) -> Any:
        """Predict a test batch; see :meth:`val_step`."""
        return self._evaluation_step(data, with_loss)

    def _evaluation_step(self, data: Any, with_loss: bool) -> Any:
        data = self.data_preprocessor(data, False)
        predictions = self._run_forward(data, "predict")
        if not with_loss:
            return predictions
        return predictions, self.parse_losses(self._run_forward(data, "loss"))[1]

    def parse_losses(self, losses: Mapping[str, Tensor | list[Tensor]]) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum the losses returned by :meth:`forward`.

        A tensor is reduced to its mean, a list of tensors to the sum of their means. The total is the sum of all
        entries whose name contains ``loss``; other entries are only logged. Of the losses of several optimizers by
        name, the name of each is prefixed with that of its optimizer.

        Args:
            losses: losses by name.

        Returns:
            The total, and all scalars by name, starting with the total as ``loss``.

        Raises:
            TypeError: ``losses`` is not a mapping, a name is not a string, or a value is neither a tensor nor a list
                of tensors.
            ValueError: no name contains ``loss``.
        """
        if not isinstance(losses, Mapping):
            raise TypeError(
                f"{type(self).__name__}.forward(mode='loss') must return a dictionary of losses, such as "
                f"dict(loss=...), not {describe(losses)}"
            )
        if _is_by_optimizer(losses):
            totals, by_name = self._parse_each(losses)
            return sum(totals.values(), start=torch.zeros(())), by_name
        log_vars: dict[str, Tensor] = {}
        total: Tensor | None = None
        for name, value in losses.items():
            if not isinstance(name, str):
                raise TypeError(f"{type(self).__name__} returned a loss named {name!r}: the name must be a string")
            scalar = _to_scalar(name, value, self)
            log_vars[name] = scalar
            if "loss" in name:
                total = scalar if total is None else total + scalar
        if total is None:
            raise ValueError(
                f"{type(self).__name__} returned no loss, only {', '.join(losses) or 'an empty dict'}: "
                "the name of a loss must contain 'loss'"
            )
        if len(log_vars) == 1 and "loss" in log_vars:
            return total, log_vars
        log_vars.pop("loss", None)
        return total, {"loss": total, **log_vars}

    def _update_each(self, losses: Any, optim_wrapper: OptimWrapperDict) -> dict[str, Tensor]:
        """Update the parameters of each optimizer with its losses, or with all losses if they are not grouped."""
        names = list(optim_wrapper.keys())
        if not _is_by_optimizer(losses):
            total, log_vars = self.parse_losses(losses)
            update_params(dict.fromkeys(names, total), optim_wrapper, self)
            return log_vars
        if set(losses) != set(names):
            guesses = [guess for name in losses if name not in names and (guess := did_you_mean(name, names))]
            raise TrainingError(
                f"{type(self).__name__} returned losses for {', '.join(losses)}, but the optimizers are "
                f"{', '.join(names)}{': ' if guesses else ''}{', '.join(guesses)}"
            )
        totals, log_vars = self._parse_each(losses)
        update_params(totals, optim_wrapper, self)
        return log_vars

    def _parse_each(self, losses: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the total of each optimizer, and all scalars by name, starting with the sum as ``loss``."""
        totals: dict[str, Tensor] = {}
        log_vars: dict[str, Tensor] = {}
        for name, own in losses.items():
            totals[name], scalars = self.parse_losses(own)
            log_vars.update((f"{name}.{key}", value) for key, value in scalars.items())
        return totals, {"loss": sum(totals.values(), start=torch.zeros(())).detach(), **log_vars}

    def compile_forward(self, **options: Any) -> None:
        """Compile the forward pass in place, without changing the names in the state dict.

        Args:
            **options: arguments of :func:`torch.compile`.
        """
        self.compile(**options)

    def _run_forward(self, data: Any, mode: str) -> Any:
        if isinstance(data, dict):
            return self(**data, mode=mode)
        if isinstance(data, list | tuple):
            return self(*data, mode=mode)
        raise TypeError(f"the data preprocessor must return a dict, list or tuple, not {type(data).__name__}")


def _is_by_optimizer(losses: Any) -> bool:
    """Return whether losses are grouped by optimizer: dicts of losses, under names that are not those of losses."""
    return (
        isinstance(losses, Mapping)
        and bool(losses)
        and all(isinstance(value, Mapping) and "loss" not in str(name) for name, value in losses.items())
    )


def update_params(loss: Any, optim_wrapper: Any, model: nn.Module) -> None:
    """Update the parameters, with a helpful error if the loss does not depend on any of them.

    Args:
        loss: the loss, or the losses by optimizer.
        optim_wrapper: the wrapper, or several.
        model: the model, for messages.

    Raises:
        TrainingError: the loss has no gradient.
    """
    try:
        optim_wrapper.update_params(loss)
    except RuntimeError as error:
        losses = loss if isinstance(loss, Mapping) else {"": loss}
        constant = [name for name, value in losses.items() if not value.requires_grad]
        if not constant:
            raise
        frozen = not any(parameter.requires_grad for parameter in model.parameters())
        cause = (
            "all its parameters are frozen (requires_grad=False)"
            if frozen
            else "it was computed with .item(), .detach(), torch.no_grad() or integers, or only from frozen parameters"
        )
        owner = repr(constant[0]) if constant[0] else type(model).__name__
        raise TrainingError(f"the loss of {owner} has no gradient: {cause}") from error


def _to_scalar(name: str, value: Any, model: nn.Module) -> Tensor:
    if isinstance(value, Tensor):
        return _mean(value)
    if isinstance(value, list | tuple) and all(isinstance(part, Tensor) for part in value):
        parts = [_mean(part) for part in value]
        return sum(parts[1:], start=parts[0]) if parts else torch.zeros(())
    if isinstance(value, list | tuple):
        found = next(part for part in value if not isinstance(part, Tensor))
        position = f" at index {[part is found for part in value].index(True)}"
    else:
        found, position = value, ""
    kind = "None" if found is None else f"{type(found).__name__} {found!r}"[:80]
    remedy = "omit it if there is no such loss" if found is None else "return a tensor, or a list of tensors"
    raise TypeError(f"{type(model).__name__} returned {kind} as loss {name!r}{position}: {remedy}")


def _mean(value: Tensor) -> Tensor:
    if not value.dim():
        return value
    return value.mean() if value.is_floating_point() or value.is_complex() else value.float().mean()
