"""Datasets of keypoints in the formats of YOLO and LabelMe."""

import os
from typing import Any

from trainwright.datasets.formats.labelme import labelme_files, point_labels, read_labelme
from trainwright.datasets.formats.yolo import read_yolo
from trainwright.datasets.pose.dataset import BaseCocoStyleDataset
from trainwright.engine.registry import DATASETS


@DATASETS.register_module()
class YOLOPoseDataset(BaseCocoStyleDataset):
    """Boxes with keypoints in the text files of YOLO.

    A line consists of the class, the box, and x, y and optionally the visibility of each keypoint, as ``kpt_shape`` in
    the ``data.yaml`` states. ``flip_idx`` becomes ``flip_indices``, ``kpt_names`` the names of the keypoints. The files
    are those of :class:`YOLODataset`.

    Args:
        ann_file: the ``data.yaml``, relative to ``data_root``.
        split: ``train``, ``val`` or ``test`` in ``ann_file``; or, relative to ``data_root``, a folder of images or a
            text file with one image path per line.
        data_root: root folder.
        **kwargs: further arguments of :class:`BaseCocoStyleDataset`, except ``data_prefix``.

    Raises:
        DataError: files are missing or bad; each wrong line is named.
    """

    def __init__(
        self,
        ann_file: str | os.PathLike[str],
        split: str = "train",
        data_root: str | os.PathLike[str] = "",
        **kwargs: Any,
    ) -> None:
        self.split = split
        super().__init__(ann_file=ann_file, data_root=data_root, **kwargs)

    def read_content(self) -> dict[str, Any]:
        """Return the annotations in COCO format."""
        self.data_prefix["img_path"] = ""  # the paths of the images are complete
        content, description = read_yolo(self.ann_file, self.split, self.data_root)
        if description.flip_indices is not None:
            self._metainfo.setdefault("flip_indices", description.flip_indices)
        return content.as_dict()


@DATASETS.register_module()
class LabelMePoseDataset(BaseCocoStyleDataset):
    """Keypoints drawn as points with LabelMe: a JSON file per image.

    The label of a point is the name of its keypoint. Points and a rectangle (or another region) with the same
    ``group_id`` form an instance; its class is the label of the rectangle. Without a rectangle, the box is the smallest
    one around the points. In a file with at most one rectangle, ``group_id`` may be missing.

    Args:
        data_root: folder of the JSON files; subfolders are included.
        ann_file: text file with the path of a JSON file or an image per line, relative to ``data_root``, as is
            ``ann_file`` itself. If empty, all files in ``data_root`` are used.
        **kwargs: further arguments of :class:`BaseCocoStyleDataset`, except ``data_prefix``. Set
            ``metainfo=dict(keypoints=(...))``, so that all splits have the same keypoints in the same order.

    Raises:
        DataError: files are missing or bad; each bad shape is named.
    """

    def __init__(self, data_root: str | os.PathLike[str], ann_file: str = "", **kwargs: Any) -> None:
        super().__init__(ann_file=ann_file, data_root=data_root, **kwargs)

    def read_content(self) -> dict[str, Any]:
        """Return the annotations in COCO format."""
        self.data_prefix["img_path"] = ""
        files = labelme_files(self.data_root, self.ann_file)
        keypoints = self._metainfo.get("keypoints") or point_labels(files)
        return read_labelme(files, self._metainfo.get("classes"), keypoints).as_dict()
