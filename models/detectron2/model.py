"""Models with the inputs and outputs of Detectron2's: lists of dicts in, a dict of losses or a list of dicts out."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainwright.engine.building import import_if_there
from trainwright.engine.errors import ConfigError, TrainingError
from trainwright.engine.evaluation.samples import describe
from trainwright.engine.export.form import ExportForm
from trainwright.engine.model_traits import declared_number
from trainwright.engine.records.message_hub import MessageHub
from trainwright.engine.registry import MODELS
from trainwright.engine.structures.instance_data import InstanceData
from trainwright.engine.structures.pixel_data import PixelData
from trainwright.engine.structures.sample import DataSample, sample_name
from trainwright.models.base import BaseModel
from trainwright.models.detection.export import detection_form, to_instances
from trainwright.models.detection.instances import checked_instances, keypoints_with_visibility
from trainwright.models.detection.losses import computing_losses, named_losses
from trainwright.models.detectron2 import structures as own_structures
from trainwright.models.module import InitCfg

_FORMATS = ("BGR", "RGB")


@MODELS.register_module()
class Detectron2Model(BaseModel):
    """A model around a network of Detectron2, or one of your own with the same inputs and outputs.

    The network is called with a list of dicts, one for each image: ``image`` (C, H, W), with values as the pipeline
    packs them, usually uint8; ``height`` and ``width`` of the original image; and in training mode ``instances``, with
    ``gt_boxes``, ``gt_classes`` and, if the data has them, ``gt_masks`` and ``gt_keypoints``, and ``sem_seg`` (H, W),
    if the data has segmentation maps. It normalizes the images itself. In training mode, it returns a dict of losses,
    in evaluation mode a list of dicts with ``instances`` (``pred_boxes``, ``pred_classes``, ``scores`` and optionally
    ``pred_masks`` and ``pred_keypoints``), ``sem_seg`` (C, H, W), or both. Other outputs, such as ``panoptic_seg``, are
    not used.

    The structures are those of ``detectron2.structures`` if that library is installed, otherwise those of
    :mod:`trainwright.models.detectron2.structures`. Losses are computed within an ``EventStorage`` of Detectron2, whose
    scalars are logged too.

    Data samples and predictions of instances are those of :class:`TorchvisionDetector`, segmentation maps those of
    :class:`SemanticSegmentor`. Masks are given as ``BitMasks``.

    See https://detectron2.readthedocs.io/en/latest/tutorials/models.html for the inputs and outputs.

    Example:
        >>> Detectron2Model(dict(type="my_package.build_mask_rcnn", config="mask_rcnn_R_50_FPN_3x.yaml"), num_classes=3)

    Args:
        network: module or config.
        num_classes: number of classes without background; by default the ``num_classes`` of the network or of its
            ``roi_heads``.
        num_seg_classes: number of classes of pixels, for a network that returns ``sem_seg``.
        input_format: order of the channels in the images that the network expects, ``BGR`` or ``RGB``; by default the
            ``input_format`` of the network, or else ``BGR``, as in Detectron2. Images in the pipeline are RGB.
        data_preprocessor: module or config; the type defaults to ``BaseDataPreprocessor``. It must not normalize.
        init_cfg: one or more initializer configs.

    Raises:
        ConfigError: the numbers of classes are unknown or contradict the network, or the ``input_format`` is unknown.
    """

    def __init__(
        self,
        network: Mapping[str, Any] | nn.Module,
        num_classes: int | None = None,
        num_seg_classes: int | None = None,
        input_format: str | None = None,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        init_cfg: InitCfg = None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg)
        self.network: nn.Module = MODELS.build(network)
        if not isinstance(self.network, nn.Module):
            raise ConfigError("network", f"must be a module, not {describe(self.network)}")
        self.num_classes = _number_of_classes(self.network, num_classes)
        self.num_seg_classes = num_seg_classes
        name = type(self.network).__name__
        if self.num_classes is None and num_seg_classes is None:
            hint = "set it to the number of classes of the data"
            raise ConfigError("num_classes", f"is required for a {name}, which does not declare it", hint)
        self.input_format = input_format or getattr(self.network, "input_format", None) or "BGR"
        for mistake in self.check_config({"input_format": self.input_format}):
            raise mistake
        self._structures = {
            name: getattr(import_if_there("detectron2.structures") or own_structures, name)
            for name in ("Instances", "Boxes", "BitMasks", "Keypoints")
        }
        self._event_storage = getattr(import_if_there("detectron2.utils.events"), "EventStorage", None)

    @classmethod
    def check_config(cls, cfg: Mapping[str, Any]) -> Iterator[ConfigError]:
        """Yield the mistakes in a config of this model that its arguments show, with paths inside it."""
        if cfg.get("input_format") not in (None, *_FORMATS):
            yield ConfigError("input_format", f"must be one of {', '.join(_FORMATS)}, not {cfg['input_format']!r}")

    def forward(self, inputs: Sequence[Tensor] | Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        """Return losses, predictions, or the network's output.

        Args:
            inputs: RGB images, each of shape (C, H, W).
            data_samples: a list of data samples.
            mode: ``loss`` for the losses; ``predict`` for data samples with ``pred_instances`` or ``pred_sem_seg``;
                ``tensor`` for the network's output, one dict per image.

        Raises:
            ValueError: in mode ``loss``, a sample lacks annotations, a box is not finite or has no area, or a label is
                out of range.
            TrainingError: the network returns neither losses nor predictions in Detectron2's form.
        """
        if mode not in ("loss", "predict", "tensor"):
            raise ValueError(f"mode must be 'loss', 'predict' or 'tensor', not {mode!r}")
        samples = data_samples if isinstance(data_samples, list | tuple) else [DataSample() for _ in inputs]
        if mode == "loss":
            return self._losses(self._with_annotations(inputs, data_samples))
        output = self.network([self._record(image, sample) for image, sample in zip(inputs, samples)])
        return self._predictions(output, inputs, samples) if mode == "predict" else output

    def compile_forward(self, **options: Any) -> None:
        """Compile the backbone, if the network has one; the shapes in the rest change with every batch.

        Args:
            **options: arguments of :func:`torch.compile`.
        """
        backbone: Any = getattr(self.network, "backbone", self.network)
        backbone.compile(**options)

    def export_form(self) -> ExportForm:
        """Return the form that ``trainwright export`` needs, for one image at a time; see :func:`detection_form`.

        Raises:
            ConfigError: the network returns something other than instances.
        """
        image = torch.zeros(3, 64, 64, dtype=torch.uint8, device=next(self.network.parameters()).device)
        output = self.network([self._record(image, DataSample())])[0]
        if set(output) != {"instances"}:
            message = f"only instances can be exported, but the network returns {', '.join(output)}"
            raise ConfigError("model", message, "give the model an export_form: see docs/export.md")

        def detections(images: Any) -> dict[str, Tensor]:
            (found,) = self.network([self._record(images[0], DataSample())])
            return _fields(found["instances"])

        return detection_form(self, self.network, detections, list(_fields(output["instances"])), _MASK_THRESHOLD)

    def _record(self, image: Tensor, sample: Any) -> dict[str, Any]:
        """Return the dict of an image."""
        height, width = sample.get("ori_shape") or image.shape[-2:]
        channels = image.flip(0) if self.input_format == "BGR" else image
        return {"image": channels, "height": height, "width": width}

    def _with_annotations(self, inputs: Any, data_samples: Any) -> list[dict[str, Any]]:
        """Return the dicts of a batch for training."""
        if not isinstance(data_samples, list | tuple):
            raise ValueError(f"the batch has no annotations: its data samples are {data_samples!r}")
        truths: Sequence[InstanceData | None] = [None] * len(inputs)
        if self.num_classes is not None:
            truths = checked_instances(data_samples, self.num_classes)
        records = []
        for image, sample, truth in zip(inputs, data_samples, truths):
            record = self._record(image, sample)
            if truth is not None:
                record["instances"] = self._instances(truth, (int(image.shape[-2]), int(image.shape[-1])))
            if "gt_sem_seg" in sample:
                record["sem_seg"] = sample.gt_sem_seg.sem_seg[0]
            elif self.num_seg_classes is not None:
                raise ValueError(f"{sample_name(sample)} has no gt_sem_seg: does the pipeline load it?")
            records.append(record)
        return records

    def _instances(self, truth: InstanceData, size: tuple[int, int]) -> Any:
        structures = self._structures
        fields = {"gt_boxes": structures["Boxes"](truth.bboxes), "gt_classes": truth.labels}
        if "masks" in truth:
            fields["gt_masks"] = structures["BitMasks"](truth.masks)
        if "keypoints" in truth:
            fields["gt_keypoints"] = structures["Keypoints"](keypoints_with_visibility(truth))
        return structures["Instances"](size, **fields)

    def _losses(self, records: list[dict[str, Any]]) -> dict[str, Any]:
        with computing_losses(self.network), self._recording() as storage:
            losses = named_losses(self.network(records), self.network)
        device = records[0]["image"].device
        for name, (value, _) in ({} if storage is None else storage.latest()).items():
            if "loss" not in name:  # or it would be added to the losses
                losses.setdefault(name, torch.full((), value, device=device))
        return losses

    def _recording(self) -> AbstractContextManager[Any]:
        """Return the storage that the networks of Detectron2 write scalars to, or None without that library."""
        if self._event_storage is None:
            return nullcontext()
        iteration = MessageHub.get_current_instance().get_info("iter", 0)
        return self._event_storage(iteration)  # type: ignore[no-any-return]

    def _predictions(self, output: Any, inputs: Any, samples: Sequence[Any]) -> list[Any]:
        name = type(self.network).__name__
        if not _are_predictions(output, len(inputs)):
            raise TrainingError(
                f"{name} must return a list of one dict for each image in evaluation mode, with instances or sem_seg, "
                f"not {describe(output)}"
            )
        for sample, found, image in zip(samples, output, inputs):
            height, width = sample.get("ori_shape") or image.shape[-2:]
            size = (int(height), int(width))
            if "instances" in found:
                sample.pred_instances = _to_instances(found["instances"], size, name)
            if "sem_seg" in found:
                scores = found["sem_seg"]
                if tuple(scores.shape[-2:]) != size:
                    scores = F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0]
                sample.pred_sem_seg = PixelData(sem_seg=scores.argmax(0)[None])
        return list(samples)


_MASK_THRESHOLD = 0.5
_REQUIRED = ("pred_boxes", "pred_classes", "scores")


def _number_of_classes(network: nn.Module, given: int | None) -> int | None:
    """Return the number of classes, without background.

    Raises:
        ConfigError: the network has another one than the given one.
    """
    owners = (network, getattr(network, "roi_heads", None))
    declared = next(filter(None, (declared_number(owner, "num_classes") for owner in owners)), None)
    if given is not None and declared not in (None, given):
        message = f"is {given}, but the {type(network).__name__} has {declared} classes"
        raise ConfigError("num_classes", message, "remove it, or correct the network")
    return given or declared


def _are_predictions(output: Any, number: int) -> bool:
    return (
        isinstance(output, list | tuple)
        and len(output) == number
        and all(isinstance(found, Mapping) and ("instances" in found or "sem_seg" in found) for found in output)
    )


def _to_instances(found: Any, size: tuple[int, int], name: str) -> InstanceData:
    """Return the instances in an image in coordinates of the original image, sorted by score.

    Networks of Detectron2 return them in these coordinates, others maybe in those of the input: ``image_size`` tells.
    """
    if missing := [field for field in _REQUIRED if not hasattr(found, field)]:
        raise TrainingError(f"{name} returned instances without {' and '.join(missing)}")
    fields = _fields(found)
    if fields["bboxes"].shape[1:] != (4,):
        raise TrainingError(f"{name} returned boxes of shape {tuple(fields['bboxes'].shape)}, not (N, 4)")
    own = (int(found.image_size[0]), int(found.image_size[1]))
    if "masks" in fields and own != size:
        fields["masks"] = fields["masks"].float()
    return to_instances(fields, own, size, _MASK_THRESHOLD)


def _fields(found: Any) -> dict[str, Tensor]:
    """Return the fields of predicted instances under our names, sorted by score."""
    order = found.scores.argsort(descending=True)
    fields = {
        "bboxes": _tensor(found.pred_boxes)[order],
        "labels": found.pred_classes[order],
        "scores": found.scores[order],
    }
    if hasattr(found, "pred_masks"):
        fields["masks"] = _tensor(found.pred_masks)[order][:, None]
    if hasattr(found, "pred_keypoints"):
        points = _tensor(found.pred_keypoints)[order]
        fields |= {"keypoints": points[..., :2], "keypoint_scores": points[..., 2]}
    return fields


def _tensor(value: Any) -> Tensor:
    tensor: Tensor = getattr(value, "tensor", value)
    return tensor
