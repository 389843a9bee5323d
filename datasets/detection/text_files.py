"""Datasets in the formats of YOLO and LabelMe, for detection and instance segmentation."""

import os
from typing import Any

from trainwright.datasets.detection.dataset import CocoDataset
from trainwright.datasets.formats.labelme import labelme_files, read_labelme
from trainwright.datasets.formats.yolo import read_yolo
from trainwright.engine.records.logger import print_log
from trainwright.engine.registry import DATASETS


@DATASETS.register_module()
class YOLODataset(CocoDataset):
    """Boxes or polygons in the text files of YOLO.

    ::

        data.yaml                     names: [cat, dog]; train: images/train; val: images/val
        images/train/1.jpg
        labels/train/1.txt            class x y width height: the center and size of a box
        labels/train/2.txt            class x1 y1 x2 y2 x3 y3 …: a polygon

    All coordinates are fractions of the width and height of the image. The label file of an image has the same path,
    with ``labels`` instead of ``images``, or is next to the image. Images with an empty label file or without one are
    background images.

    Args:
        ann_file: the ``data.yaml``, relative to ``data_root``; if empty, set ``metainfo=dict(classes=(...))``.
        split: ``train``, ``val`` or ``test`` in ``ann_file``; or, relative to ``data_root``, a folder of images or a
            text file with one image path per line.
        data_root: root folder.
        **kwargs: further arguments of :class:`BaseDetDataset`, except ``data_prefix``.

    Raises:
        DataError: files are missing or bad; each wrong line is named.
    """

    def __init__(
        self,
        ann_file: str | os.PathLike[str] = "",
        split: str = "train",
        data_root: str | os.PathLike[str] = "",
        **kwargs: Any,
    ) -> None:
        self.split = split
        super().__init__(ann_file=ann_file, data_root=data_root, **kwargs)

    def read_content(self) -> dict[str, Any]:
        """Return the annotations in COCO format."""
        self.data_prefix["img_path"] = ""  # the paths of the images are complete
        content, _ = read_yolo(self.ann_file, self.split, self.data_root, self._metainfo.get("classes"))
        return content.as_dict()


@DATASETS.register_module()
class LabelMeDataset(CocoDataset):
    """Shapes drawn with LabelMe: a JSON file per image.

    Rectangles, polygons, circles and masks are instances with a box and a mask. Points and lines, which have no area,
    are left out, and their number is logged. The image of a file is the one that its ``imagePath`` names, relative to
    the file, or else one with the same name next to it.

    Args:
        data_root: folder of the JSON files; subfolders are included.
        ann_file: text file with the path of a JSON file or an image per line, relative to ``data_root``, as is
            ``ann_file`` itself. If empty, all files in ``data_root`` are used.
        **kwargs: further arguments of :class:`BaseDetDataset`, except ``data_prefix``.

    Raises:
        DataError: files are missing or bad; each bad shape is named.
    """

    def __init__(self, data_root: str | os.PathLike[str], ann_file: str = "", **kwargs: Any) -> None:
        super().__init__(ann_file=ann_file, data_root=data_root, **kwargs)

    def read_content(self) -> dict[str, Any]:
        """Return the annotations in COCO format."""
        self.data_prefix["img_path"] = ""
        content = read_labelme(labelme_files(self.data_root, self.ann_file), self._metainfo.get("classes"))
        if content.left_out:
            number, first = len(content.left_out), content.left_out[0]
            print_log(
                f"{self.ann_file or self.data_root}: left out {number} points and lines (the first: {first})", "current"
            )
        return content.as_dict()
