"""Top-down pose estimation: keypoints of a single instance in a crop around its box."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from trainwright.engine.errors import ConfigError
from trainwright.engine.export.form import ExportForm
from trainwright.engine.model_traits import declared_number
from trainwright.engine.registry import MODELS
from trainwright.models.base import BaseModel
from trainwright.models.module import InitCfg
from trainwright.models.pose.heads import flip_heatmaps


@MODELS.register_module()
class TopdownPoseEstimator(BaseModel):
    """A top-down pose estimator: a backbone, an optional neck, and a heat map head.

    Example:
        >>> TopdownPoseEstimator(
        ...     backbone=dict(type="TorchvisionFeatures", name="resnet50", layers="layer4", weights="IMAGENET1K_V1"),
        ...     head=dict(
        ...         type="HeatmapHead",
        ...         in_channels=2048,
        ...         out_channels=17,
        ...         codec=dict(type="MSRAHeatmap", input_size=(192, 256), heatmap_size=(48, 64), sigma=2),
        ...     ),
        ...     test_cfg=dict(flip_test=True),
        ...     flip_indices=(0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15),
        ... )

    Args:
        backbone: module or config; returns a feature map, or several, of which the last is used.
        head: module or config with the methods ``loss``, ``predict`` and ``predict_heatmaps`` of :class:`HeatmapHead`.
        neck: module or config between the backbone and the head.
        test_cfg: ``dict(flip_test=True)`` averages the heat maps of the input and of the horizontally flipped input.
        flip_indices: for the flip test, the index of the keypoint that each keypoint is swapped with when flipped.
        data_preprocessor: module or config; the type defaults to ``PoseDataPreprocessor``.
        init_cfg: one or more initializer configs.

    Raises:
        ConfigError: ``test_cfg`` has an unknown key, ``flip_indices`` is invalid, or the flip test has none.
    """

    def __init__(
        self,
        backbone: Mapping[str, Any] | nn.Module,
        head: Mapping[str, Any] | nn.Module,
        neck: Mapping[str, Any] | nn.Module | None = None,
        test_cfg: Mapping[str, Any] | None = None,
        flip_indices: Sequence[int] | None = None,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        init_cfg: InitCfg = None,
    ) -> None:
        if not isinstance(data_preprocessor, nn.Module):
            data_preprocessor = {"type": "PoseDataPreprocessor", **(data_preprocessor or {})}
        super().__init__(data_preprocessor, init_cfg)
        self.flip_test = _flip_test(test_cfg or {}, flip_indices)
        self.flip_indices = None if flip_indices is None else tuple(flip_indices)
        self.backbone: nn.Module = MODELS.build(backbone)
        self.neck: nn.Module | None = None if neck is None else MODELS.build(neck)
        self.head: Any = MODELS.build(head)
        self.num_keypoints = declared_number(self.head, "num_keypoints")
        number = self.num_keypoints
        if self.flip_indices is not None and number is not None and len(self.flip_indices) != number:
            message = f"has {len(self.flip_indices)} indices, but the head has {number} keypoints"
            raise ConfigError("flip_indices", message, "list one index per keypoint")

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        """Return losses, predictions, or heat maps.

        Args:
            inputs: float images of shape (N, C, H, W), each a crop around one instance.
            data_samples: a list of data samples with one instance each.
            mode: ``loss`` for the losses; ``predict`` for data samples with ``pred_instances`` in coordinates of the
                original images; ``tensor`` for the heat maps, of shape (N, K, h, w).
        """
        if mode == "loss":
            return self.head.loss(self.extract_feat(inputs), data_samples)
        if mode == "predict":
            return self._predict(inputs, data_samples)
        if mode == "tensor":
            return self.head(self.extract_feat(inputs))
        raise ValueError(f"mode must be 'loss', 'predict' or 'tensor', not {mode!r}")

    def extract_feat(self, inputs: Tensor) -> Any:
        """Return the output of the backbone and neck."""
        features = self.backbone(inputs)
        return features if self.neck is None else self.neck(features)

    def compile_forward(self, **options: Any) -> None:
        """Compile the backbone and neck; the rest handles data samples and would not benefit.

        Args:
            **options: arguments of :func:`torch.compile`.
        """
        self.backbone.compile(**options)
        if self.neck is not None:
            self.neck.compile(**options)

    def export_form(self) -> ExportForm:
        """Return the form that ``trainwright export`` needs: keypoints in pixels of the crop, and their scores.

        Raises:
            ConfigError: the head has no codec.
        """
        if getattr(self.head, "codec", None) is None:
            message = f"a {type(self.head).__name__} cannot be exported: it has no codec that decodes heat maps"
            raise ConfigError("model.head", message)
        return ExportForm(
            self,
            lambda inputs: self.head.codec.decode(self._heatmaps(inputs)),
            ("keypoints", "keypoint_scores"),
            {"type": "PoseDecoder"},
            size_axes=(),  # the codec has a fixed size
        )

    def _predict(self, inputs: Tensor, data_samples: Any) -> Any:
        if not self.flip_test:
            return self.head.predict(self.extract_feat(inputs), data_samples)
        return self.head.predict_heatmaps(self._heatmaps(inputs), data_samples)

    def _heatmaps(self, inputs: Tensor) -> Tensor:
        """Return the heat maps, averaged over the mirror image in a flip test."""
        heatmaps: Tensor = self.head(self.extract_feat(inputs))
        if not self.flip_test:
            return heatmaps
        assert self.flip_indices is not None
        mirrored = flip_heatmaps(self.head(self.extract_feat(inputs.flip(-1))), self.flip_indices)
        return (heatmaps + mirrored) / 2


def _flip_test(test_cfg: Mapping[str, Any], flip_indices: Sequence[int] | None) -> bool:
    if unknown := test_cfg.keys() - {"flip_test"}:
        raise ConfigError(f"test_cfg.{min(unknown)}", "unknown option", "the only option is flip_test")
    if flip_indices is not None and sorted(flip_indices) != list(range(len(flip_indices))):
        raise ConfigError("flip_indices", f"must contain each index once, from 0, not {list(flip_indices)}")
    flip_test = bool(test_cfg.get("flip_test", False))
    if flip_test and flip_indices is None:
        hint = "copy them from the dataset's metainfo; use (0, 1, 2, ...) if no keypoints are swapped"
        raise ConfigError("flip_indices", "required for the flip test", hint)
    return flip_test
