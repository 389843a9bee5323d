"""Top-down pose estimation with Hugging Face's transformers."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainwright.engine.registry import MODELS
from trainwright.models.huggingface.base import HuggingFaceModel, normalization
from trainwright.models.huggingface.networks import ConfigLike
from trainwright.models.module import InitCfg
from trainwright.models.pose.estimator import TopdownPoseEstimator
from trainwright.models.pose.heads import HeatmapDecoder


@MODELS.register_module()
class HuggingFacePoseEstimator(HuggingFaceModel, TopdownPoseEstimator):
    """A top-down pose estimator of transformers (``AutoModelForPoseEstimation``): ViTPose.

    The pipeline crops the images to the size of the network's input (``TopdownAffine``); they are normalized by the
    mean and standard deviation of the image processor. ViTPose of transformers has no loss; this one is that of the
    paper.

    Example:
        >>> HuggingFacePoseEstimator(
        ...     "usyd-community/vitpose-base-simple",
        ...     test_cfg=dict(flip_test=True),
        ...     flip_indices=(0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15),
        ... )

    Args:
        pretrained: name on the Hugging Face Hub or folder, see :class:`HuggingFaceClassifier`.
        config: a config for random weights, or changes to that of the weights, see :class:`HuggingFaceClassifier`.
        num_keypoints: number of keypoints; by default that of the weights.
        image_processor: options that replace those of the image processor.
        codec: module or config that converts between keypoints and heat maps; by default ``UDPHeatmap`` with the sizes
            of the network and a sigma of 2, as in ViTPose.
        loss: module or config of the loss on the heat maps; ``dict(type='KeypointMSELoss')`` if None.
        test_cfg: ``dict(flip_test=True)``, see :class:`TopdownPoseEstimator`.
        flip_indices: for the flip test, see :class:`TopdownPoseEstimator`.
        data_preprocessor: module or config; the type defaults to ``PoseDataPreprocessor``.
        init_cfg: one or more initializer configs.

    Raises:
        MissingExtraError: transformers is not installed.
        ConfigError: the config is incomplete or has mistakes, or its type is not for pose estimation.
        CheckpointError: the files of ``pretrained`` are missing or cannot be downloaded.
    """

    task = "pose estimation"
    network_name = "backbone"
    names_key = "keypoints"

    def __init__(
        self,
        pretrained: str | None = None,
        config: ConfigLike | None = None,
        num_keypoints: int | None = None,
        image_processor: Mapping[str, Any] | None = None,
        codec: Mapping[str, Any] | nn.Module | None = None,
        loss: Mapping[str, Any] | nn.Module | None = None,
        test_cfg: Mapping[str, Any] | None = None,
        flip_indices: Sequence[int] | None = None,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        init_cfg: InitCfg = None,
    ) -> None:
        network = self._build_parts(pretrained, config, num_keypoints, image_processor, "num_keypoints")
        self._dataset_meta = None  # transformers names the keypoints in other words
        if not isinstance(data_preprocessor, nn.Module):
            kind = {"type": "PoseDataPreprocessor", **normalization(self.image_processor)}
            data_preprocessor = {**kind, **(data_preprocessor or {})}
        if codec is None:
            codec = {"type": "UDPHeatmap", "sigma": 2.0, **_sizes(network)}
        super().__init__(
            network,
            HeatmapDecoder(network.config.num_labels, codec, loss),
            test_cfg=test_cfg,
            flip_indices=flip_indices,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )

    def extract_feat(self, inputs: Tensor) -> Tensor:
        """Return the heat maps, of shape (N, K, h, w)."""
        heatmaps: Tensor = self.backbone(inputs).heatmaps
        return heatmaps


def _sizes(network: Any) -> dict[str, tuple[int, int]]:
    """Return the width and height of the input and of the heat maps of a network."""
    height, width = network.config.backbone_config.image_size
    training = network.training
    with torch.no_grad():
        heatmaps = network.eval()(torch.zeros(1, 3, height, width)).heatmaps
    network.train(training)
    return {"input_size": (width, height), "heatmap_size": (heatmaps.shape[-1], heatmaps.shape[-2])}
