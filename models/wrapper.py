"""A wrapper that makes any module trainable."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from trainwright.engine.errors import ConfigError, TrainingError
from trainwright.engine.evaluation.samples import describe
from trainwright.engine.export.form import ExportForm
from trainwright.engine.model_traits import declared_number, learns_no_classes
from trainwright.engine.registry import MODELS
from trainwright.engine.structures.elements import BaseDataElement
from trainwright.models.base import BaseModel
from trainwright.models.classification.export import classification_form
from trainwright.models.classification.losses import CrossEntropyLoss
from trainwright.models.classification.samples import add_predictions, gather_labels
from trainwright.models.module import InitCfg

TARGET_NAMES = ("targets", "target", "labels", "label", "data_samples")


@MODELS.register_module()
class ModuleWrapper(BaseModel):
    """A wrapper that adds the steps of a model to a plain module; the Runner wraps modules without ``train_step``.

    The module is called as its batches are:

    - ``(inputs, targets)``, or a dict with ``inputs`` and ``data_samples``: ``module(inputs)``, or
      ``module(inputs, targets)`` in training if its second argument is named ``targets``, ``target``, ``labels``,
      ``label`` or ``data_samples``;
    - any other dict: ``module(**batch)``, as the networks of Hugging Face; to predict, without the targets, by the same
      names;
    - a list of dicts, one for each sample (``collate_fn="list_collate"``): ``module(batch)``, as those of Detectron2.

    A module that has got targets may return its losses: a scalar, an object with an attribute ``loss``, or a dict of
    scalars. If the name of one contains ``loss``, those are the losses, and the others are only logged; otherwise, all
    scalars with a gradient are losses, named ``loss_…``. Any other output is treated as logits, or as an
    object with logits (``logits``, ``out``), and compared with the targets by ``loss``.

    Example:
        >>> ModuleWrapper(dict(type="torchvision.models.resnet18", num_classes=10))
        >>> ModuleWrapper(torch.nn.Linear(3, 1), loss=dict(type="torch.nn.MSELoss"))

    Args:
        module: the module or its config.
        loss: module or config, called as ``loss(logits, targets)``; it may return a scalar or a dict of losses.
            ``dict(type='CrossEntropyLoss')`` if None.
        data_preprocessor: module or config, see :class:`BaseModel`.
        init_cfg: one or more initializer configs.
    """

    def __init__(
        self,
        module: Mapping[str, Any] | nn.Module,
        loss: Mapping[str, Any] | nn.Module | None = None,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        init_cfg: InitCfg = None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg)
        # Not named `module`, because loading treats that prefix as a parallel wrapper's.
        self.network = MODELS.build(module)
        if not isinstance(self.network, nn.Module):
            raise TypeError(f"module must be a module or its config, not {module!r}")
        self.loss_module = MODELS.build({"type": "CrossEntropyLoss"} if loss is None else loss)
        self._classifies = isinstance(self.loss_module, CrossEntropyLoss | nn.CrossEntropyLoss)
        self.num_classes = declared_number(self.network, "num_classes")
        self.any_classes = learns_no_classes(self.network)
        self._takes_targets = _takes_targets(self.network)

    def forward(self, *args: Any, mode: str = "tensor", **batch: Any) -> Any:
        """Return losses, predictions or the module's output.

        Args:
            *args: the inputs and the targets (a tensor, a batched data sample with ``gt_label``, a list of data
                samples, or any other targets that the module accepts); or the samples, each a dict.
            mode: ``loss`` for a dict of losses; ``predict`` for data samples with ``pred_score`` and ``pred_label`` if
                the loss is a cross entropy and the output has the shape (N, C), otherwise the module's output;
                ``tensor`` for the module's output.
            **batch: ``inputs`` and ``data_samples``, or the keyword arguments of the module.
        """
        if mode not in ("loss", "predict", "tensor"):
            raise ValueError(f"mode must be 'loss', 'predict' or 'tensor', not {mode!r}")
        trains = mode == "loss"
        if _are_dicts(args):
            output, targets, has_got_targets = self.network(list(args)), None, True
        elif batch and "inputs" not in batch and not args:
            targets = next((batch[name] for name in TARGET_NAMES if name in batch), None)
            given = batch if trains else {name: value for name, value in batch.items() if name not in TARGET_NAMES}
            output, has_got_targets = self.network(**given), targets is not None
        else:
            inputs, targets = _bound(*args, **batch)
            has_got_targets = trains and self._takes_targets
            with _explaining_instances(targets):
                output = self.network(inputs, targets) if has_got_targets else self.network(inputs)
        if trains:
            return self._losses(output, targets, has_got_targets)
        return self._predictions(output, targets) if mode == "predict" else output

    def compile_forward(self, **options: Any) -> None:
        """Compile the module.

        Args:
            **options: arguments of :func:`torch.compile`.
        """
        self.network.compile(**options)

    def export_form(self) -> ExportForm:
        """Return the form that ``trainwright export`` needs: scores and labels, or the module's output.

        Raises:
            ConfigError: the module returns neither a tensor nor logits.
        """
        if self._classifies:
            return classification_form(self, self._exported_output)
        return ExportForm(self, self._exported_output, ("output",))

    def _exported_output(self, inputs: Any) -> Tensor:
        output = self.network(inputs)
        output = output if isinstance(output, Tensor) else _logits(output)
        if not isinstance(output, Tensor):
            message = f"a {type(self.network).__name__} returns {describe(output)}, not a tensor"
            raise ConfigError("model", message, "give the model an export_form: see docs/export.md")
        return output

    def _losses(self, output: Any, targets: Any, has_got_targets: bool) -> dict[str, Any]:
        if isinstance(output, Tensor) and output.dim() == 0:
            return {"loss": output}
        if has_got_targets and isinstance(own := getattr(output, "loss", None), Tensor):
            return {"loss": own}  # of Hugging Face: the other entries are outputs, or parts of this loss
        if isinstance(output, Mapping) and any("loss" in str(name) for name in output):
            return dict(output)
        if isinstance(output, Mapping) and output and all(isinstance(own, Mapping) for own in output.values()):
            return {name: self._losses(own, None, True) for name, own in output.items()}  # of several optimizers
        if has_got_targets and isinstance(output, Mapping) and output and all(map(_is_scalar, output.values())):
            return {f"loss_{name}" if value.requires_grad else name: value for name, value in output.items()}
        if targets is None:
            raise TrainingError(
                f"{type(self.network).__name__} returned no losses, but {describe(output)}, and the batch has no "
                f"targets to compare it with: name them {' or '.join(TARGET_NAMES[:3])}"
            )
        if not isinstance(targets, Tensor) and not _are_dicts(targets):
            targets = gather_labels(targets)
        loss = self.loss_module(output if isinstance(output, Tensor) else _logits(output), targets)
        return dict(loss) if isinstance(loss, Mapping) else {"loss": loss}

    def _predictions(self, output: Any, targets: Any) -> Any:
        if not self._classifies:
            return output
        logits = output if isinstance(output, Tensor) else _logits(output)
        if isinstance(logits, Tensor) and logits.dim() == 2:
            return add_predictions(logits, targets)
        return output


@contextmanager
def _explaining_instances(targets: Any) -> Iterator[None]:
    """Add a note to errors of a detector that gets data samples instead of its own form of targets."""
    try:
        yield
    except Exception as error:
        several = targets if isinstance(targets, list | tuple) else []
        if any(isinstance(target, BaseDataElement) and "gt_instances" in target for target in several):
            error.add_note(
                "the targets are data samples with boxes; detectors with the inputs and outputs of torchvision's or "
                "Detectron2's are trained on these by TorchvisionDetector or Detectron2Model: see docs/other-models.md"
            )
        raise


def _bound(inputs: Any, data_samples: Any = None) -> tuple[Any, Any]:
    return inputs, data_samples


def _takes_targets(module: nn.Module) -> bool:
    parameters = list(inspect.signature(module.forward).parameters)
    return len(parameters) > 1 and parameters[1] in TARGET_NAMES


def _are_dicts(values: Any) -> bool:
    return isinstance(values, list | tuple) and bool(values) and all(isinstance(value, Mapping) for value in values)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1


def _logits(output: Any) -> Any:
    for name in ("logits", "out"):
        if isinstance(output, Mapping) and name in output:
            return output[name]
        if hasattr(output, name):
            return getattr(output, name)
    return output
