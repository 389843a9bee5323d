"""Tiny datasets in the layouts that OpenMMLab's configs expect, drawn with a fixed seed."""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

COLORS = ((220, 60, 60), (60, 180, 75), (60, 90, 220), (230, 190, 40))


def draw_imagenet(root: Path, classes: int = 4, train: int = 8, val: int = 4, size: int = 40) -> None:
    """Draw class folders with images, ``train/class_0/0.jpg``."""
    rng = np.random.default_rng(0)
    for split, number in (("train", train), ("val", val)):
        for label in range(classes):
            folder = root / split / f"class_{label}"
            folder.mkdir(parents=True, exist_ok=True)
            for index in range(number):
                _canvas(rng, (size, size), [(label, _box(rng, size, size))]).save(folder / f"{index}.jpg", quality=95)


def draw_coco(root: Path, names: list[str], train: int = 8, val: int = 4, keypoints: int = 0, size: int = 96) -> None:
    """Draw images with one to three objects, and their annotations, with keypoints if a number is given."""
    rng = np.random.default_rng(1)
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for split, number in (("train2017", train), ("val2017", val)):
        (root / split).mkdir(exist_ok=True)
        images, annotations = [], []
        for index in range(1, number + 1):
            height, width = (size, size * 4 // 3) if index % 2 else (size * 4 // 3, size)
            objects = [(int(rng.integers(len(names))), _box(rng, width, height)) for _ in range(rng.integers(1, 4))]
            _canvas(rng, (width, height), objects).save(root / split / f"{index:012d}.jpg", quality=95)
            images.append(dict(id=index, file_name=f"{index:012d}.jpg", width=width, height=height))
            for label, (x, y, w, h) in objects:
                annotation = dict(
                    id=len(annotations) + 1, image_id=index, category_id=label + 1, iscrowd=0, area=w * h,
                    bbox=[x, y, w, h], segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]],
                )  # fmt: skip
                if keypoints:
                    points = [(x + w * rng.random(), y + h * rng.random(), 2) for _ in range(keypoints)]
                    annotation.update(keypoints=[float(v) for p in points for v in p], num_keypoints=keypoints)
                annotations.append(annotation)
        categories = [dict(id=index + 1, name=name, supercategory="thing") for index, name in enumerate(names)]
        if keypoints:
            categories[0].update(keypoints=[f"k{index}" for index in range(keypoints)], skeleton=[])
        content = json.dumps(dict(images=images, annotations=annotations, categories=categories))
        for kind in ("instances", "person_keypoints"):
            (root / "annotations" / f"{kind}_{split}.json").write_text(content)


def draw_cityscapes(root: Path, train: int = 6, val: int = 3, size: tuple[int, int] = (128, 64)) -> None:
    """Draw street scenes of boxes, with label images in training ids."""
    rng = np.random.default_rng(2)
    for split, number in (("train", train), ("val", val)):
        for index in range(number):
            objects = [(int(rng.integers(4)), _box(rng, *size)) for _ in range(3)]
            labels = Image.new("L", size, 0)
            draw = ImageDraw.Draw(labels)
            for label, (x, y, w, h) in objects:
                draw.rectangle((x, y, x + w, y + h), fill=label + 1)
            name = f"town_{index:06d}_000019"
            for kind, image, suffix in (
                ("leftImg8bit", _canvas(rng, size, objects), "leftImg8bit.png"),
                ("gtFine", labels, "gtFine_labelTrainIds.png"),
            ):
                folder = root / kind / split / "town"
                folder.mkdir(parents=True, exist_ok=True)
                image.save(folder / f"{name}_{suffix}")


def _box(rng: np.random.Generator, width: int, height: int) -> tuple[int, int, int, int]:
    w, h = (int(rng.integers(side // 3, side // 2)) for side in (width, height))
    return int(rng.integers(0, width - w)), int(rng.integers(0, height - h)), w, h


def _canvas(
    rng: np.random.Generator, size: tuple[int, int], objects: list[tuple[int, tuple[int, int, int, int]]]
) -> Image.Image:
    image = Image.fromarray(rng.integers(90, 140, (size[1], size[0], 3), dtype=np.uint8))
    draw = ImageDraw.Draw(image)
    for label, (x, y, w, h) in objects:
        draw.rectangle((x, y, x + w, y + h), fill=COLORS[label % len(COLORS)])
    return image
