"""Object detection with Hugging Face's transformers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainwright.engine.errors import ConfigError
from trainwright.engine.export.form import ExportForm
from trainwright.engine.registry import MODELS
from trainwright.engine.structures.instance_data import InstanceData
from trainwright.engine.structures.sample import DataSample
from trainwright.models.base import BaseModel
from trainwright.models.detection.instances import checked_instances
from trainwright.models.huggingface.base import (
    HuggingFaceModel,
    original_size,
    preprocessor_config,
    require_own_preprocessor,
)
from trainwright.models.huggingface.networks import ConfigLike
from trainwright.models.module import InitCfg


@MODELS.register_module()
class HuggingFaceDetector(HuggingFaceModel, BaseModel):
    """An object detector of transformers (``AutoModelForObjectDetection``): DETR, RT-DETR, D-FINE and others.

    Data samples and predictions are those of :class:`TorchvisionDetector` with boxes. The images are resized,
    normalized and padded by the image processor of the network, which also converts its outputs to boxes. Boxes are
    relative to the image without its padding, as in DETR.

    Example:
        >>> HuggingFaceDetector("PekingU/rtdetr_r18vd", num_classes=3)
        >>> HuggingFaceDetector(config=dict(model_type="d_fine"), num_classes=80, image_processor=dict(size=480))

    Args:
        pretrained: name on the Hugging Face Hub or folder, see :class:`HuggingFaceClassifier`.
        config: a config for random weights, or changes to that of the weights, see :class:`HuggingFaceClassifier`.
        num_classes: number of classes without background; by default that of the weights.
        image_processor: options that replace those of the image processor.
        score_thr: minimum score of predictions, in [0, 1).
        max_per_img: maximum number of predictions per image.
        data_preprocessor: module or config; the type is ``HuggingFacePreprocessor``.
        init_cfg: one or more initializer configs.

    Raises:
        MissingExtraError: transformers is not installed.
        ConfigError: the config is incomplete or has mistakes, or its type is not for object detection.
        CheckpointError: the files of ``pretrained`` are missing or cannot be downloaded.
    """

    task = "object detection"

    def __init__(
        self,
        pretrained: str | None = None,
        config: ConfigLike | None = None,
        num_classes: int | None = None,
        image_processor: Mapping[str, Any] | None = None,
        score_thr: float = 0.0,
        max_per_img: int = 100,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        init_cfg: InitCfg = None,
    ) -> None:
        require_own_preprocessor(data_preprocessor)
        network = self._build_parts(pretrained, config, num_classes, image_processor)
        super().__init__(preprocessor_config(data_preprocessor, self.image_processor), init_cfg)
        self.network = network
        self.num_classes: int = network.config.num_labels
        self.score_thr = score_thr
        self.max_per_img = max_per_img
        if not hasattr(self.image_processor, self._post_process):
            name = type(self.image_processor).__name__
            raise ConfigError("config.model_type", f"{name} cannot convert outputs to predictions for {self.task}")

    _post_process = "post_process_object_detection"

    def forward(
        self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor", pixel_mask: Tensor | None = None
    ) -> Any:
        """Return losses, predictions, or the network's output.

        Args:
            inputs: float images of shape (N, 3, H, W).
            data_samples: a list of data samples.
            mode: ``loss`` for ``loss`` and, to be logged, its parts in the last layer; ``predict`` for data samples
                with ``pred_instances``; ``tensor`` for the output of the network.
            pixel_mask: 1 for pixels of the images, 0 for their padding, of shape (N, H, W).

        Raises:
            ValueError: in mode ``loss``, a sample has no ``gt_instances``, a box is not finite or has no area, or a
                label is out of range.
        """
        images = {"pixel_values": inputs} if pixel_mask is None else {"pixel_values": inputs, "pixel_mask": pixel_mask}
        if mode == "loss":
            return dict(self._losses(images, data_samples))
        if mode == "predict":
            return self._predictions(self.network(**images), inputs, data_samples)
        if mode == "tensor":
            return self.network(**images)
        raise ValueError(f"mode must be 'loss', 'predict' or 'tensor', not {mode!r}")

    def export_form(self) -> ExportForm:
        """Return the form that ``trainwright export`` needs, for one image at a time; see :func:`detection_form`."""
        return ExportForm(
            self,
            self._detections,
            ("bboxes", "labels", "scores"),
            {"type": "DetectionDecoder"},
            instances=True,
            takes_raw=True,
            size_axes=(),  # the image processors compute with sizes in Python
        )

    def _detections(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the boxes, labels and scores of a batch of one raw image, in pixels of this image."""
        values, mask = self.data_preprocessor.process(images, portable=True)
        output = self.network(values) if mask is None else self.network(values, pixel_mask=mask)
        (found,) = self.image_processor.post_process_object_detection(
            output, threshold=_Below(), target_sizes=torch.tensor([images.shape[-2:]])
        )
        scores, order = found["scores"].topk(min(self.max_per_img, len(found["scores"])))
        boxes, labels = found["boxes"][order], found["labels"][order]
        if self.score_thr > 0:
            kept = scores > self.score_thr
            boxes, labels, scores = boxes[kept], labels[kept], scores[kept]
        return boxes, labels, scores

    def compile_forward(self, **options: Any) -> None:
        """Compile the network.

        Args:
            **options: arguments of :func:`torch.compile`.
        """
        self.network.compile(**options)

    def _losses(self, images: Mapping[str, Tensor], data_samples: Any) -> Iterator[tuple[str, Tensor]]:
        truths = checked_instances(data_samples, self.num_classes)
        labels = [
            {"class_labels": truth.labels, "boxes": _relative(truth.bboxes, sample.img_shape)}
            for sample, truth in zip(data_samples, truths)
        ]
        output = self.network(**images, labels=labels)
        yield "loss", output.loss + (0 if any(map(len, truths)) else self._no_gradient())
        for name, value in output.loss_dict.items():
            if not name[-1].isdigit():  # those of the intermediate layers and of denoising are numbered
                yield name.removeprefix("loss_"), value.detach()

    def _no_gradient(self) -> Any:
        """Return a zero that depends on all parameters: without objects, some networks do not use all of them.

        The other processes would wait for their gradients.
        """
        return 0 * sum(parameter.sum() for parameter in self.parameters() if parameter.requires_grad)

    def _predictions(self, output: Any, inputs: Tensor, data_samples: Any) -> list[DataSample]:
        samples = data_samples if isinstance(data_samples, list | tuple) else [DataSample() for _ in inputs]
        sizes = [original_size(sample, inputs) for sample in samples]
        detections = self.image_processor.post_process_object_detection(
            output, threshold=self.score_thr, target_sizes=torch.tensor(sizes)
        )
        for sample, detection in zip(samples, detections):
            scores, order = detection["scores"].sort(descending=True, stable=True)
            scores, order = scores[: self.max_per_img], order[: self.max_per_img]
            boxes, labels = detection["boxes"][order], detection["labels"][order]
            sample.pred_instances = InstanceData(bboxes=boxes, labels=labels, scores=scores)
        return list(samples)


class _Below:
    """A threshold below all scores. To index by the comparison changes nothing, so an exporter knows the shapes."""

    def __lt__(self, scores: Tensor) -> slice:
        return slice(None)

    __le__ = __lt__


def _relative(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Convert left, top, right and bottom to center, width and height, relative to the size of the image."""
    height, width = size
    corners = boxes / boxes.new_tensor([width, height, width, height])
    return torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1)
