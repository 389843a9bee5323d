"""Synthetic shapes with keypoints, one instance per sample."""

from collections.abc import Sequence
from typing import Any

from trainwright.datasets.base import BaseDataset
from trainwright.datasets.synthetic.shapes import Shapes
from trainwright.engine.registry import DATASETS


@DATASETS.register_module()
class TopdownShapes(BaseDataset):
    """The shapes of :class:`Shapes` as separate samples, with their corners as keypoints.

    Args:
        num_samples: number of images; the number of samples is that of the visible shapes in them.
        pipeline, test_mode, indices: see :class:`BaseDataset`.
        **kwargs: further arguments of :class:`Shapes`. ``kinds`` defaults to ``("arrow",)``, whose keypoints are
            distinguishable.
    """

    def __init__(
        self,
        num_samples: int = 500,
        pipeline: Sequence[Any] = (),
        test_mode: bool = False,
        indices: int | Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        self.images = Shapes(num_samples, **{"kinds": ("arrow",), **kwargs})
        super().__init__(metainfo=self.images.metainfo, pipeline=pipeline, test_mode=test_mode, indices=indices)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return the image index and the shape index within the image for each sample."""
        counts = (len(self.images.get_data_info(index)["gt_bboxes"]) for index in range(len(self.images)))
        return [{"img_id": image, "instance": number} for image, count in enumerate(counts) for number in range(count)]

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Draw the whole image of a sample and return it with the annotations of one shape."""
        info = super().get_data_info(idx)
        image = self.images.get_data_info(info["img_id"])
        one = slice(info["instance"], info["instance"] + 1)
        info |= {key: image[key] for key in ("img", "ori_shape")}
        for key in ("gt_bboxes_labels", "gt_areas", "gt_keypoints", "gt_keypoints_visible"):
            info[key] = image[key][one]
        info["gt_bboxes"] = type(image["gt_bboxes"])(
            image["gt_bboxes"][one], format="XYXY", canvas_size=info["ori_shape"]
        )
        info["bbox_label"] = int(info["gt_bboxes_labels"])
        if "flip_indices" in self._metainfo:
            info["flip_indices"] = self._metainfo["flip_indices"]
        return info

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the class index of the shape as a list."""
        labels: list[int] = self.get_data_info(idx)["gt_bboxes_labels"].tolist()
        return labels
