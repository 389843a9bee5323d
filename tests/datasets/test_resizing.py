"""Resizing agrees with torchvision's transforms, and with OpenCV where that is the backend."""

from typing import Any

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from trainwright.datasets import PackInputs
from trainwright.datasets.resizing import RandomHorizontalFlip, RandomResize, RandomResizedCrop, Resize

rng = np.random.default_rng(0)
PIXELS = rng.integers(0, 256, (61, 83, 3), dtype=np.uint8)


def sample(**more: Any) -> dict[str, Any]:
    """Return a sample whose image is (H, W, C) in memory, as decoders leave it."""
    return {"img": tv_tensors.Image(torch.from_numpy(PIXELS).permute(2, 0, 1)), "ori_shape": (61, 83), **more}


@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [
        (RandomResizedCrop, v2.RandomResizedCrop, {"size": 32}),
        (RandomResizedCrop, v2.RandomResizedCrop, {"size": (20, 40), "interpolation": "bicubic", "scale": (0.5, 1)}),
        (Resize, v2.Resize, {"size": 40}),
        (Resize, v2.Resize, {"size": 40, "max_size": 50, "interpolation": "nearest"}),
        (RandomHorizontalFlip, v2.RandomHorizontalFlip, {"p": 0.6}),
        (RandomResize, v2.RandomResize, {"min_size": 30, "max_size": 90}),
    ],
)
def test_resizing_is_that_of_torchvision(ours: Any, theirs: Any, options: dict[str, Any]) -> None:
    boxes = tv_tensors.BoundingBoxes([[3.0, 4, 30, 40]], format="XYXY", canvas_size=(61, 83))
    mask = tv_tensors.Mask(torch.from_numpy(PIXELS[:, :, 0] // 100))
    for more in ({}, {"gt_label": 3, "img_path": "a.jpg"}, {"gt_bboxes": boxes, "gt_seg_map": mask, "other": [1, 2]}):
        for seed in range(5):
            results = []
            for transform in (ours(**options), theirs(**options)):
                torch.manual_seed(seed)
                results.append(transform(sample(**more)))
            found, expected = results
            assert list(found) == list(expected)
            assert type(found["img"]) is tv_tensors.Image
            # Vectorized rounding differs by 1 with the layout in memory.
            assert (found["img"].int() - expected["img"].int()).abs().max() <= 1
            for key in more:
                assert (
                    torch.equal(torch.as_tensor(found[key]), torch.as_tensor(expected[key]))
                    if key[:2] == "gt"
                    else True
                )


def test_opencv_resizes_as_it_does_alone() -> None:
    cv2 = pytest.importorskip("cv2")
    found = Resize((20, 40), backend="cv2")(sample())["img"].permute(1, 2, 0).numpy()
    assert (found == cv2.resize(PIXELS, (40, 20), interpolation=cv2.INTER_LINEAR)).all()
    torch.manual_seed(0)
    window = v2.RandomResizedCrop(24).make_params([sample()["img"]])
    torch.manual_seed(0)
    cropped = RandomResizedCrop(24, backend="cv2")(sample(gt_label=1))["img"]
    rows = slice(window["top"], window["top"] + window["height"])
    columns = slice(window["left"], window["left"] + window["width"])
    expected = cv2.resize(PIXELS[rows, columns], (24, 24), interpolation=cv2.INTER_LINEAR)
    assert (cropped.permute(1, 2, 0).numpy() == expected).all()
    gray = Resize(30, backend="cv2")({"img": sample()["img"][:1].as_subclass(tv_tensors.Image)})["img"]
    assert gray.shape == (1, 30, 40)
    with pytest.raises(ValueError, match="OpenCV has no interpolation 'box'"):
        Resize(30, "box", backend="cv2")


def test_unknown_backends_are_refused() -> None:
    with pytest.raises(ValueError, match="backend must be 'torchvision' or 'cv2', not 'pillow'"):
        RandomResizedCrop(24, backend="pillow")  # type: ignore[arg-type]


def test_packed_images_are_contiguous_and_share_no_larger_memory() -> None:
    for image in (sample()["img"], sample()["img"][:, 10:20, 5:50], torch.zeros(3, 40, 40)[:, :9, :9]):
        inputs = PackInputs()({"img": image})["inputs"]
        assert inputs.is_contiguous() and torch.equal(inputs, image.as_subclass(torch.Tensor))
        assert inputs.untyped_storage().nbytes() == inputs.nbytes
