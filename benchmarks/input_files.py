"""Pipelines for image files: JPEG of 500x375 pixels, with boxes and masks, or a class for each pixel.

The baselines are the pipelines of torchvision's reference scripts (references/ in its repository) with Pillow.
"""

import importlib.util
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import functional

from trainwright.datasets import Compose
from trainwright.engine import Config

CONFIGS = Path(__file__).parents[1] / "configs" / "_base_" / "datasets"
NUM_IMAGES, SIZE = 12, (500, 375)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Sample = dict[str, Any]


def classification(folder: Path) -> dict[str, Callable[[], int]]:
    """Return pipelines to a random crop of 224x224 pixels, flipped at random, uint8 or, with ToTensor, float32."""
    paths = [sample["img_path"] for sample in draw(folder)]
    steps = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip()]
    to_float = transforms.Compose([*steps, transforms.ToTensor()])
    to_uint8 = transforms.Compose([*steps, transforms.PILToTensor()])
    found = {
        "torchvision: PIL, ToTensor": over(paths, lambda path: to_float(Image.open(path).convert("RGB"))),
        "torchvision: PIL, PILToTensor": over(paths, lambda path: to_uint8(Image.open(path).convert("RGB"))),
        "ours": over(paths, from_config("imagenet.py")),
        "ours, imdecode_backend='pillow'": over(paths, from_config("imagenet.py", "pillow")),
    }
    if has_opencv():
        found["ours, backend='cv2'"] = over(paths, from_config("imagenet.py", "cv2"))
        found["OpenCV: as in mmpretrain"] = over(paths, load_with_opencv)
    return found


def detection(folder: Path) -> dict[str, Callable[[], int]]:
    """Return pipelines to a float32 or uint8 image with the boxes and masks of ten objects, flipped at random."""
    samples = draw(folder)
    steps = [{"type": "LoadAnnotations", "with_mask": True}]
    found = {
        "torchvision: hflip preset, PIL": over(samples, detection_preset),
        "ours": over(samples, from_config("coco_detection.py", instead={"LoadAnnotations": steps[0]})),
    }
    if has_opencv():
        ours = from_config("coco_detection.py", "cv2", instead={"LoadAnnotations": steps[0]})
        found["ours, backend='cv2'"] = over(samples, ours)
    return found


def segmentation(folder: Path) -> dict[str, Callable[[], int]]:
    """Return pipelines to a crop of 480x480 pixels with the class of each, resized and flipped at random."""
    samples = [{key: sample[key] for key in ("img_path", "seg_map_path")} for sample in draw(folder)]
    found = {
        "torchvision: training preset, PIL": over(samples, segmentation_preset),
        "ours": over(samples, from_config("voc2012_segmentation.py")),
    }
    if has_opencv():
        found["ours, backend='cv2'"] = over(samples, from_config("voc2012_segmentation.py", "cv2"))
    return found


def draw(folder: Path) -> list[Sample]:
    """Draw images with ten polygons each, once, and return their samples as our datasets do."""
    rng = np.random.default_rng(0)
    samples = []
    for number in range(NUM_IMAGES):
        image_file, mask_file = folder / f"{number}.jpg", folder / f"{number}.png"
        noise = Image.fromarray(rng.integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8))
        picture = noise.filter(ImageFilter.GaussianBlur(1.5))
        mask = Image.new("L", SIZE)
        instances = []
        for label in range(10):
            center, radius = rng.uniform((60, 60), (SIZE[0] - 60, SIZE[1] - 60)), rng.uniform(20, 60)
            angles = np.linspace(0, 2 * np.pi, 30, endpoint=False)
            lengths = radius * rng.uniform(0.8, 1, 30)
            points = center + np.stack([np.cos(angles), np.sin(angles)], 1) * lengths[:, None]
            polygon = points.ravel().tolist()
            color = tuple(int(value) for value in rng.integers(0, 256, 3))
            ImageDraw.Draw(picture).polygon(polygon, fill=color)
            ImageDraw.Draw(mask).polygon(polygon, fill=label + 1)
            box = [*points.min(0).tolist(), *points.max(0).tolist()]
            instances.append({"bbox": box, "bbox_label": label, "ignore_flag": 0, "mask": [polygon]})
        if not image_file.exists():
            picture.save(image_file, quality=85)
            mask.save(mask_file)
        samples.append({"img_path": str(image_file), "seg_map_path": str(mask_file), "instances": instances})
    return samples


def over(items: Sequence[Any], process: Callable[[Any], Any]) -> Callable[[], int]:
    """Return a function that processes all items, and returns their number."""

    def run() -> int:
        for item in items:
            process(item)
        return len(items)

    return run


def from_config(
    name: str, backend: str = "torchvision", instead: dict[str, dict[str, Any]] | None = None
) -> Callable[[Any], Any]:
    """Return the training pipeline of a shipped config, for a path or a sample."""
    steps = Config.fromfile(CONFIGS / name).train_dataloader.dataset.pipeline
    steps = [(instead or {}).get(step["type"], dict(step)) for step in steps]
    steps[0]["imdecode_backend"] = backend
    for step in steps:
        if backend == "cv2" and step["type"] in ("RandomResizedCrop", "RandomResize"):
            step["backend"] = backend
    pipeline = Compose(steps)
    return lambda item: pipeline({"img_path": item} if isinstance(item, str) else dict(item))


def has_opencv() -> bool:
    """Whether OpenCV is installed; reported if not."""
    found = importlib.util.find_spec("cv2") is not None
    if found:
        import cv2

        cv2.setNumThreads(0)
    else:
        print("skipped: OpenCV, which is not installed (pip install opencv-python-headless)")
    return found


def load_with_opencv(path: str) -> Tensor:
    """Load, crop, resize and flip as mmpretrain does with OpenCV."""
    import cv2

    image = cv2.imdecode(np.frombuffer(Path(path).read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    top, left, height, width = transforms.RandomResizedCrop.get_params(
        torch.empty(3, *image.shape[:2], device="meta"), (0.08, 1.0), (3 / 4, 4 / 3)
    )
    image = cv2.resize(image[top : top + height, left : left + width], (224, 224), interpolation=cv2.INTER_LINEAR)
    if random.random() < 0.5:
        image = cv2.flip(image, 1)
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def detection_preset(sample: Sample) -> tuple[Tensor, dict[str, Tensor]]:
    """Load a sample as torchvision's references/detection does: masks from polygons, flip, float32."""
    from pycocotools import mask as coco_mask

    picture = Image.open(sample["img_path"]).convert("RGB")
    width, height = picture.size
    boxes = torch.tensor([one["bbox"] for one in sample["instances"]]).reshape(-1, 4)
    boxes[:, 0::2].clamp_(min=0, max=width)
    boxes[:, 1::2].clamp_(min=0, max=height)
    masks = []
    for one in sample["instances"]:
        mask = coco_mask.decode(coco_mask.frPyObjects(one["mask"], height, width))
        masks.append(torch.as_tensor(mask, dtype=torch.uint8).any(dim=2))
    target = {"boxes": boxes, "masks": torch.stack(masks)}
    target["labels"] = torch.tensor([one["bbox_label"] for one in sample["instances"]])
    flipped = torch.rand(1) < 0.5
    image: Tensor = functional.pil_to_tensor(functional.hflip(picture) if flipped else picture)
    if flipped:
        target["boxes"][:, [0, 2]] = width - target["boxes"][:, [2, 0]]
        target["masks"] = target["masks"].flip(-1)
    return functional.convert_image_dtype(image, torch.float), target


def segmentation_preset(sample: Sample) -> tuple[Tensor, Tensor]:
    """Load a sample as torchvision's references/segmentation does: resize, flip, crop, float32, normalize."""
    picture, mask = Image.open(sample["img_path"]).convert("RGB"), Image.open(sample["seg_map_path"])
    size = random.randint(260, 1040)
    picture = functional.resize(picture, size, antialias=True)
    mask = functional.resize(mask, size, interpolation=transforms.InterpolationMode.NEAREST)
    if random.random() < 0.5:
        picture, mask = functional.hflip(picture), functional.hflip(mask)
    missing = [max(480 - side, 0) for side in picture.size]
    if any(missing):
        picture = functional.pad(picture, [0, 0, *missing], fill=0)
        mask = functional.pad(mask, [0, 0, *missing], fill=255)
    window = transforms.RandomCrop.get_params(picture, (480, 480))
    image = functional.pil_to_tensor(functional.crop(picture, *window))
    classes = torch.as_tensor(np.array(functional.crop(mask, *window)), dtype=torch.int64)
    return functional.normalize(functional.convert_image_dtype(image, torch.float), MEAN, STD), classes
