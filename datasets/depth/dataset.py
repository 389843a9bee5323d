"""A dataset for depth estimation: image files, and depth maps as files of integers."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainwright.datasets.base import BaseDataset
from trainwright.engine.errors import MissingFileError
from trainwright.engine.registry import DATASETS


@DATASETS.register_module()
class DepthDataset(BaseDataset):
    """A folder of images and a folder of depth maps with matching file names, as NYU Depth in MMSegmentation.

    ::

        data_root/images/a/1.jpg      data_root/annotations/a/1.png

    Samples start as ``dict(img_path=str, depth_map_path=str)``, sorted by name; ``LoadDepthAnnotation`` reads the depth
    map. If ``data_prefix`` lacks ``depth_map_path``, samples have no depth maps.

    Args:
        img_suffix: suffix of image file names.
        depth_map_suffix: suffix of depth map file names, which replaces that of the image.
        data_root: folder that contains those of ``data_prefix``.
        data_prefix: the folders; ``dict(img_path="images", depth_map_path="annotations")`` if None.
        **kwargs: arguments of :class:`BaseDataset`.

    Raises:
        FileNotFoundError: the image folder is missing, or there are no images.
    """

    def __init__(
        self,
        img_suffix: str = ".jpg",
        depth_map_suffix: str = ".png",
        data_root: str | os.PathLike[str] = "",
        data_prefix: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.img_suffix = img_suffix
        self.depth_map_suffix = depth_map_suffix
        prefix = {"img_path": "images", "depth_map_path": "annotations"} if data_prefix is None else data_prefix
        super().__init__(data_root=data_root, data_prefix=prefix, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return the image and depth map paths of every sample."""
        images = Path(self.data_prefix.get("img_path", ""))
        if not images.is_dir():
            raise MissingFileError(f"image folder {str(images)!r} not found: check data_root and data_prefix")
        found = sorted(path for path in images.rglob(f"*{self.img_suffix}") if path.is_file())
        if not found:
            raise MissingFileError(f"no files *{self.img_suffix} in {images}: check data_prefix and img_suffix")
        maps = self.data_prefix.get("depth_map_path")
        if maps is None:
            return [{"img_path": str(path)} for path in found]
        names = [str(path.relative_to(images)).removesuffix(self.img_suffix) + self.depth_map_suffix for path in found]
        return [{"img_path": str(path), "depth_map_path": str(Path(maps, name))} for path, name in zip(found, names)]
