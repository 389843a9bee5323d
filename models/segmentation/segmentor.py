"""Semantic segmentation."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from trainwright.engine.errors import ConfigError
from trainwright.engine.export.form import ExportForm
from trainwright.engine.inference.tiles import window_starts
from trainwright.engine.model_traits import declared_number
from trainwright.engine.registry import MODELS
from trainwright.models.base import BaseModel
from trainwright.models.module import InitCfg
from trainwright.models.pretrained import build_network
from trainwright.models.segmentation.export import segmentation_form
from trainwright.models.segmentation.pixels import add_seg_predictions, gather_seg_maps

LossLike = Mapping[str, Any] | nn.Module | Sequence[Mapping[str, Any] | nn.Module]


@MODELS.register_module()
class SemanticSegmentor(BaseModel):
    """A semantic segmentation model around a network that returns pixel-wise logits.

    Example:
        >>> SemanticSegmentor("deeplabv3_resnet50", num_classes=21)
        >>> SemanticSegmentor(dict(type="UNet", num_classes=4, base_channels=16, depth=4))
        >>> SemanticSegmentor(
        ...     dict(type="TorchvisionSegmentationModel", name="fcn_resnet50", num_classes=19, aux_loss=True),
        ...     loss=[dict(type="OhemCrossEntropyLoss"), dict(type="DiceLoss", loss_weight=3.0)],
        ...     test_cfg=dict(mode="slide", crop_size=(512, 512), stride=(341, 341)),
        ... )

    Args:
        network: name of a torchvision segmentation network, or a module or its config. It returns logits of shape
            (N, C, H, W), or a dict with logits ``out`` and, in training, those of any auxiliary heads.
        num_classes: number of classes including the background, for a network given by name.
        loss: module or config of the loss on the logits, or a list of them, which are summed;
            ``dict(type='SegCrossEntropyLoss')`` if None.
        aux_loss_weight: weight of the same losses on the logits of auxiliary heads, at least 0.
        test_cfg: ``dict(mode='whole')`` predicts whole images; ``dict(mode='slide', crop_size=(height, width),
            stride=(height, width))`` averages the logits of overlapping windows.
        ignore_index: label of ignored pixels, used for the padding and the default loss.
        data_preprocessor: module or config; the type defaults to ``SegDataPreprocessor``.
        init_cfg: one or more initializer configs.

    Raises:
        ConfigError: ``test_cfg`` is incomplete, or ``num_classes`` is missing or given twice.
    """

    def __init__(
        self,
        network: str | Mapping[str, Any] | nn.Module,
        num_classes: int | None = None,
        loss: LossLike | None = None,
        aux_loss_weight: float = 0.5,
        test_cfg: Mapping[str, Any] | None = None,
        ignore_index: int = 255,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        init_cfg: InitCfg = None,
    ) -> None:
        if not isinstance(data_preprocessor, nn.Module):
            data_preprocessor = {"type": "SegDataPreprocessor", **(data_preprocessor or {})}
        super().__init__(data_preprocessor, init_cfg)
        self.window = _window_size_and_stride(test_cfg or {"mode": "whole"})
        self.network = build_network(network, num_classes, "TorchvisionSegmentationModel")
        self.num_seg_classes = declared_number(self.network, "num_classes")
        self.losses = SegLosses(loss, ignore_index)
        self.aux_loss_weight = aux_loss_weight

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        """Return losses, predictions, or logits.

        Args:
            inputs: float images of shape (N, C, H, W).
            data_samples: a list of data samples with ``gt_sem_seg``, or a tensor of classes, of shape (N, H, W).
            mode: ``loss`` for the losses; ``predict`` for data samples with ``pred_sem_seg`` in the size of the
                original images; ``tensor`` for the logits, of shape (N, num_classes, H, W).
        """
        if mode == "loss":
            return self._losses(self.network(inputs), data_samples, inputs.shape[-2:])
        if mode == "predict":
            return add_seg_predictions(self.encode_decode(inputs), data_samples, inputs.shape[-2:])
        if mode == "tensor":
            return self.logits(inputs)
        raise ValueError(f"mode must be 'loss', 'predict' or 'tensor', not {mode!r}")

    def export_form(self) -> ExportForm:
        """Return the form that ``trainwright export`` needs: the class of each pixel, and the logits.

        A model that predicts by sliding windows can be exported for one size of images only.
        """
        sizes = (2, 3) if self.window is None else ()
        return segmentation_form(self, self.encode_decode, size_axes=sizes)

    def encode_decode(self, inputs: Tensor) -> Tensor:
        """Return the logits of whole images, or the mean over sliding windows, according to ``test_cfg``."""
        return self.logits(inputs) if self.window is None else slide(self.logits, inputs, *self.window)

    def logits(self, inputs: Tensor) -> Tensor:
        """Return the logits of the main head, of shape (N, num_classes, H, W)."""
        return _main_logits(self.network(inputs))

    def compile_forward(self, **options: Any) -> None:
        """Compile the network; the rest handles data samples and would not benefit.

        Args:
            **options: arguments of :func:`torch.compile`.
        """
        self.network.compile(**options)

    def _losses(self, outputs: Tensor | Mapping[str, Tensor], data_samples: Any, size: Sequence[int]) -> Any:
        target = gather_seg_maps(data_samples, size, self.losses.ignore_index)
        losses = self.losses(_main_logits(outputs), target)
        if isinstance(outputs, Mapping):
            for name, logits in outputs.items():
                if name != "out":
                    auxiliary = self.losses(logits, target)
                    losses |= {f"{name}.{key}": self.aux_loss_weight * value for key, value in auxiliary.items()}
        return losses


class SegLosses(nn.Module):
    """One or more losses on the same logits.

    A loss takes logits of shape (N, C, H, W) and classes of shape (N, H, W), like those of segmentation-models-pytorch.
    Its name in the log is its ``loss_name``. One without is ``loss_seg``, or if there are several losses, ``loss_`` and
    the name of its class, such as ``loss_dice``.

    Args:
        losses: one or more modules or configs; ``dict(type='SegCrossEntropyLoss')`` if None.
        ignore_index: ``ignore_index`` of the default loss; other losses must have the same.

    Raises:
        ConfigError: a loss has a different ``ignore_index``, or two losses have the same name.
    """

    def __init__(self, losses: LossLike | None, ignore_index: int) -> None:
        super().__init__()
        if losses is None:
            losses = {"type": "SegCrossEntropyLoss", "ignore_index": ignore_index}
        configs = list(losses) if isinstance(losses, list | tuple) else [losses]
        self.parts = nn.ModuleList(MODELS.build(config) for config in configs)
        self.ignore_index = ignore_index
        self.names = [getattr(part, "loss_name", None) or _default_name(part, len(configs)) for part in self.parts]
        if len(set(self.names)) < len(self.names):
            raise ConfigError("loss", f"two losses have the same name: {self.names}", "set a different loss_name")
        for part in self.parts:
            index = getattr(part, "ignore_index", ignore_index)
            if index != ignore_index:
                hint = f"set ignore_index={ignore_index} for the loss, or another ignore_index for the model"
                raise ConfigError("loss", f"its ignore_index is {index}, but the model's is {ignore_index}", hint)

    def forward(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the losses by name.

        Args:
            logits: shape (N, C, H, W).
            target: int64 classes, of shape (N, H, W).
        """
        return {name: part(logits, target) for name, part in zip(self.names, self.parts)}


def _default_name(loss: nn.Module, number: int) -> str:
    """Return the name of one of a number of losses, from its class if there are several."""
    return "loss_seg" if number == 1 else f"loss_{type(loss).__name__.removesuffix('Loss').lower()}"


def slide(network: Any, inputs: Tensor, crop_size: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Return the mean logits of overlapping windows.

    The last window of a row or column is shifted to stay inside the image, and windows larger than the image are
    cropped.

    Args:
        network: returns logits of shape (N, C, h, w) for images of shape (N, c, h, w).
        inputs: images, of shape (N, c, H, W).
        crop_size: height and width of the windows.
        stride: vertical and horizontal distance between windows.
    """
    height, width = inputs.shape[-2:]
    total: Tensor | None = None
    count = inputs.new_zeros(height, width)
    for top in window_starts(height, crop_size[0], stride[0]):
        for left in window_starts(width, crop_size[1], stride[1]):
            rows, columns = slice(top, top + crop_size[0]), slice(left, left + crop_size[1])
            logits = network(inputs[..., rows, columns])
            if total is None:
                total = logits.new_zeros(*logits.shape[:2], height, width)
            total[..., rows, columns] += logits
            count[rows, columns] += 1
    assert total is not None
    total /= count
    return total


def _window_size_and_stride(test_cfg: Mapping[str, Any]) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Return the size and stride of the sliding windows, or None for whole images."""
    settings = dict(test_cfg)
    mode = settings.pop("mode", "whole")
    if mode not in ("whole", "slide"):
        raise ConfigError("test_cfg.mode", f"must be 'whole' or 'slide', not {mode!r}")
    required = ("crop_size", "stride") if mode == "slide" else ()
    if settings.keys() != set(required):
        expected = "requires crop_size and stride" if required else "accepts no other options"
        raise ConfigError("test_cfg", f"mode {mode!r} {expected}, not {settings}")
    if not required:
        return None
    (height, width), (down, right) = (_pair(settings[name]) for name in required)
    if not 1 <= down <= height or not 1 <= right <= width:
        raise ConfigError(
            "test_cfg.stride", f"must be from 1 to crop_size, not {(down, right)}", "use about 2/3 of crop_size"
        )
    return (height, width), (down, right)


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _main_logits(outputs: Tensor | Mapping[str, Tensor]) -> Tensor:
    return outputs["out"] if isinstance(outputs, Mapping) else outputs
