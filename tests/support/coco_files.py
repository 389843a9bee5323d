"""A dataset of colored shapes in COCO format, on disk."""

import json
from pathlib import Path

from PIL import Image
from torchvision.transforms.v2.functional import to_pil_image

from trainwright.datasets import Shapes
from trainwright.engine.structures.masks import encode_mask


def write_coco_shapes(folder: Path, size: int = 64, numbers: tuple[int, int] = (4, 2)) -> None:
    """Write ``train2017``, ``val2017`` and ``annotations`` with some images each, half of them wider than high."""
    (folder / "annotations").mkdir(parents=True)
    for split, number in zip(("train2017", "val2017"), numbers):
        (folder / split).mkdir()
        shapes = Shapes(num_samples=number, size=size, seed=len(split))
        images, annotations = [], []
        for index in range(number):
            info = shapes.get_data_info(index)
            picture = Image.new("RGB", (size + 16 * (index % 2), size), (90, 90, 90))
            picture.paste(to_pil_image(info["img"]))
            picture.save(folder / split / f"{index:012d}.jpg", quality=95)
            width, height = picture.size
            images.append(dict(id=index + 1, file_name=f"{index:012d}.jpg", width=width, height=height))
            for box, label, mask in zip(
                info["gt_bboxes"].tolist(), info["gt_bboxes_labels"].tolist(), info["gt_masks"]
            ):
                plane = mask.new_zeros(height, width)
                plane[:, :size] = mask
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=index + 1,
                        category_id=label + 1,
                        iscrowd=0,
                        area=int(mask.sum()),
                        bbox=[box[0], box[1], box[2] - box[0], box[3] - box[1]],
                        segmentation=encode_mask(plane.numpy()),
                    )
                )
        categories = [dict(id=label + 1, name=name) for label, name in enumerate(shapes.kinds)]
        content = dict(images=images, annotations=annotations, categories=categories)
        (folder / f"annotations/instances_{split}.json").write_text(json.dumps(content))
