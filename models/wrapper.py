"""A wrapper that makes any module trainable."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from trainwright.engine.errors import ConfigError
from trainwright.engine.evaluation.samples import describe
from trainwright.engine.export.form import ExportForm
from trainwright.engine.model_traits import declared_number
from trainwright.engine.registry import MODELS
from trainwright.models.base import BaseModel
from trainwright.models.classification.export import classification_form
from trainwright.models.classification.losses import CrossEntropyLoss
from trainwright.models.classification.samples import add_predictions, gather_labels
from trainwright.models.module import InitCfg

TARGET_NAMES = ("targets", "target", "labels", "data_samples")


@MODELS.register_module()
class ModuleWrapper(BaseModel):
    """A wrapper that adds the steps of a model to a plain module; the Runner wraps modules without ``train_step``.

    If the second argument of the module's forward is named ``targets``, ``target``, ``labels`` or ``data_samples``, the
    module receives the targets in training, and may return a dict of losses or a scalar loss. Any other output is
    treated as logits, or as an object with logits (``logits``, ``out``), and compared with the targets by ``loss``.

    Example:
        >>> ModuleWrapper(dict(type="torchvision.models.resnet18", num_classes=10))
        >>> ModuleWrapper(torch.nn.Linear(3, 1), loss=dict(type="torch.nn.MSELoss"))

    Args:
        module: the module or its config.
        loss: module or config, called as ``loss(logits, targets)``; ``dict(type='CrossEntropyLoss')`` if None.
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
        self._takes_targets = _takes_targets(self.network)

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = "tensor") -> Any:
        """Return losses, predictions or the module's output.

        Args:
            inputs: input of the module.
            data_samples: targets: a tensor, a batched data sample with ``gt_label``, a list of data samples, or any
                other targets that the module accepts.
            mode: ``loss`` for a dict of losses; ``predict`` for data samples with ``pred_score`` and ``pred_label`` if
                the loss is a cross entropy and the output has the shape (N, C), otherwise the module's output;
                ``tensor`` for the module's output.
        """
        if mode == "loss" and self._takes_targets:
            return self._losses(self.network(inputs, data_samples), data_samples)
        output = self.network(inputs)
        if mode == "loss":
            return self._losses(output, data_samples)
        if mode == "predict":
            return self._predictions(output, data_samples)
        if mode == "tensor":
            return output
        raise ValueError(f"mode must be 'loss', 'predict' or 'tensor', not {mode!r}")

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

    def _losses(self, output: Any, data_samples: Any) -> dict[str, Any]:
        if isinstance(output, Tensor):
            if output.dim() == 0:
                return {"loss": output}
        elif isinstance(output, Mapping) and any("loss" in name for name in output):
            return dict(output)
        labels = data_samples if isinstance(data_samples, Tensor) else gather_labels(data_samples)
        return {"loss": self.loss_module(output if isinstance(output, Tensor) else _logits(output), labels)}

    def _predictions(self, output: Any, data_samples: Any) -> Any:
        if not self._classifies:
            return output
        logits = output if isinstance(output, Tensor) else _logits(output)
        if isinstance(logits, Tensor) and logits.dim() == 2:
            return add_predictions(logits, data_samples)
        return output


def _takes_targets(module: nn.Module) -> bool:
    parameters = list(inspect.signature(module.forward).parameters)
    return len(parameters) > 1 and parameters[1] in TARGET_NAMES


def _logits(output: Any) -> Any:
    for name in ("logits", "out"):
        if isinstance(output, Mapping) and name in output:
            return output[name]
        if hasattr(output, name):
            return getattr(output, name)
    return output
