"""Models that were exported, in the place of the model of a config."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainwright.engine.errors import DataError
from trainwright.engine.export.form import BATCH_AXIS
from trainwright.engine.export.formats import Runtime, load_exported, shape_text
from trainwright.engine.registry import MODELS


@MODELS.register_module()
class ExportedModel(nn.Module):
    """A model that ``trainwright export`` has written, which predicts like the one it was exported from.

    ``trainwright test CONFIG FILE``, ``trainwright predict CONFIG FILE …`` and ``Inferencer(FILE)`` build it. It cannot
    be trained, and computes no losses. Inputs of different sizes are run separately, so they are never padded.

    Example:
        >>> model = ExportedModel("lenet.onnx")
        >>> model.test_step(dict(inputs=images, data_samples=None)).pred_label

    Args:
        file: the file, whose suffix tells its format: ``.onnx``, ``.pt2``, ``.xml`` or ``.pte``.

    Raises:
        MissingExtraError: the runtime of the format is not installed.
        CheckpointError: the file is missing, damaged, or from elsewhere.
    """

    def __init__(self, file: str | Path) -> None:
        super().__init__()
        self.file = str(file)
        self._device = torch.device("cpu")
        self.runtime: Runtime = load_exported(file)
        metadata = self.runtime.metadata
        self.metadata = metadata
        self.exported_meta: dict[str, Any] = metadata["dataset_meta"]
        for name in ("num_classes", "num_seg_classes", "num_keypoints"):
            setattr(self, name, metadata.get(name))
        decoder = metadata["decoder"]
        self._decode: Any = None if decoder is None else MODELS.build(decoder)

    def forward(self, inputs: Tensor | Sequence[Tensor], data_samples: Any = None, mode: str = "predict") -> Any:
        """Return the predictions for raw inputs.

        Args:
            inputs: a tensor, or a list of one tensor per sample, as the data loader yields them.
            data_samples: a list of data samples, one batched data sample, or a tensor of labels.
            mode: ``predict``; ``tensor`` for a dict of the outputs, if all inputs have the same size.

        Raises:
            DataError: the file does not take inputs of this type or shape.
            ValueError: another mode.
        """
        if mode not in ("predict", "tensor"):
            raise ValueError(f"an exported model only has the modes 'predict' and 'tensor', not {mode!r}")
        if mode == "tensor":
            return self._run(inputs if isinstance(inputs, Tensor) else torch.stack(list(inputs)))
        instances = self.metadata["instances"]
        if not instances and (isinstance(inputs, Tensor) or len({one.shape for one in inputs}) == 1):
            batch = inputs if isinstance(inputs, Tensor) else torch.stack(list(inputs))
            return self._decoded(self._run(batch), data_samples, batch)
        predictions = []
        for index, one in enumerate(inputs):
            sample = [data_samples[index]] if isinstance(data_samples, list | tuple) else None
            predictions += self._decoded(self._run(one[None]), sample, one[None])
        return predictions

    def val_step(self, data: Any) -> Any:
        """Return the predictions for a batch of a data loader."""
        return self.test_step(data)

    @torch.no_grad()
    def test_step(self, data: Any) -> Any:
        """Return the predictions for a batch of a data loader."""
        if isinstance(data, Mapping):
            return self(data["inputs"], data.get("data_samples"))
        return self(*data[:2])

    def train_step(self, data: Any, optim_wrapper: Any) -> Any:
        """Refuse to train.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("an exported model cannot be trained: train with the config and the checkpoint")

    def _decoded(self, outputs: dict[str, Tensor], data_samples: Any, inputs: Tensor) -> Any:
        if self._decode is not None:
            return self._decode(outputs, data_samples, inputs)
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    def _run(self, inputs: Tensor) -> dict[str, Tensor]:
        """Return the outputs by name, on the device of the model."""
        inputs = inputs.as_subclass(Tensor).cpu().contiguous()
        self._check(inputs)
        size = self.metadata["inputs"]["shape"][BATCH_AXIS]
        if size is None or size == len(inputs):
            parts = [self.runtime(inputs)]
        else:  # the last part is filled up with copies of the last input
            missing = -len(inputs) % size
            filled = torch.cat([inputs, inputs[-1:].expand(missing, *inputs.shape[1:])]).contiguous()
            parts = [self.runtime(part) for part in torch.split(filled, size)]
        outputs = [torch.cat(part) if len(part) > 1 else part[0] for part in zip(*parts)]
        if not self.metadata["instances"]:
            outputs = [output[: len(inputs)] for output in outputs]
        return {name: output.to(self._device) for name, output in zip(self.metadata["outputs"], outputs, strict=True)}

    def _check(self, inputs: Tensor) -> None:
        dtype, shape = self.metadata["inputs"]["dtype"], self.metadata["inputs"]["shape"]
        if inputs.dtype != getattr(torch, dtype):
            given = str(inputs.dtype).removeprefix("torch.")
            raise DataError(f"{self.file} takes inputs of type {dtype}, not {given}: does the pipeline convert them?")
        fits = inputs.dim() == len(shape) and all(
            size in (None, own) for size, own in zip(shape[1:], inputs.shape[1:], strict=True)
        )
        if not fits:
            raise DataError(
                f"{self.file} takes inputs of shape {shape_text(shape)}, not {shape_text(inputs.shape)}: resize them "
                "in the pipeline, or export the model without --fixed size if it accepts other sizes"
            )

    def _apply(self, fn: Any, recurse: bool = True) -> "ExportedModel":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        device = fn(torch.empty(0, device=self._device)).device
        if device != self._device:
            self._device = device
            self.runtime = load_exported(self.file, device)
        return self
