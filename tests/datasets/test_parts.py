"""Samples with several parts: views, several inputs, and sizes that differ."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors

from trainwright.datasets import Compose, default_collate, pad_collate, pseudo_collate
from trainwright.engine.registry import FUNCTIONS
from trainwright.engine.visualization.inputs import image_of_batch
from trainwright.models import ImgDataPreprocessor


def sample(size: int = 16) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(size)
    image = torch.randint(0, 256, (3, size, size), dtype=torch.uint8, generator=generator)
    return {"img": tv_tensors.Image(image), "gt_label": 2}


CROPS = [
    [dict(type="RandomResizedCrop", size=8), dict(type="RandomHorizontalFlip")],
    [dict(type="RandomResizedCrop", size=4)],
]


@pytest.mark.parametrize("collate", [default_collate, pseudo_collate])
def test_views_go_through_a_pipeline_to_the_model(collate: Any) -> None:
    pipeline = Compose([dict(type="MultiView", transforms=CROPS, num_views=[2, 3]), dict(type="PackInputs")])
    torch.manual_seed(0)
    samples = [pipeline(sample()) for _ in range(4)]
    assert [tuple(view.shape) for view in samples[0]["inputs"]] == [(3, 8, 8)] * 2 + [(3, 4, 4)] * 3
    assert not torch.equal(samples[0]["inputs"][0], samples[0]["inputs"][1])
    assert all(type(view) is Tensor for view in samples[0]["inputs"])
    assert samples[0]["data_samples"].gt_label == 2 and samples[0]["data_samples"].img_shape == (8, 8)
    batch = ImgDataPreprocessor(mean=[128.0], std=[64.0])(collate(samples))
    assert [tuple(view.shape) for view in batch["inputs"]] == [(4, 3, 8, 8)] * 2 + [(4, 3, 4, 4)] * 3
    expected = (torch.stack([each["inputs"][3] for each in samples]).float() - 128) / 64
    assert torch.equal(batch["inputs"][3], expected)


def test_one_number_of_views_is_that_of_each_pipeline() -> None:
    view = Compose([dict(type="MultiView", transforms=CROPS, num_views=2)])(sample())
    assert [tuple(image.shape[-2:]) for image in view["img"]] == [(8, 8), (8, 8), (4, 4), (4, 4)]
    for numbers in ([1], [1, 0], 0):
        with pytest.raises(ValueError, match="num_views must have a positive number for each of 2 pipelines"):
            Compose([dict(type="MultiView", transforms=CROPS, num_views=numbers)])


def test_several_images_are_loaded_changed_alike_and_packed(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "low.png")
    Image.fromarray(255 - pixels).save(tmp_path / "high.png")
    pipeline = Compose(
        [
            dict(type="LoadImageFromFile"),
            dict(type="LoadImageFromFile", key="gt_img"),
            dict(type="RandomCrop", size=6),
            dict(type="RandomHorizontalFlip"),
            dict(type="PackInputs", input_key=["img", "gt_img", "points", "text"], meta_keys=["ori_gt_img_shape"]),
        ]
    )
    torch.manual_seed(1)
    found = [
        pipeline(
            {"img_path": str(tmp_path / "low.png"), "gt_img_path": str(tmp_path / "high.png"), "text": "a picture",
             "points": np.zeros((5, 3), np.float32)}
        )
        for _ in range(4)
    ]  # fmt: skip
    for packed in found:
        assert torch.equal(packed["inputs"]["img"], 255 - packed["inputs"]["gt_img"]), "the same crop and flip"
        assert packed["inputs"]["points"].shape == (5, 3) and packed["inputs"]["text"] == "a picture"
    assert found[0]["data_samples"].ori_gt_img_shape == (12, 10)
    assert len({tuple(packed["inputs"]["img"].flatten().tolist()) for packed in found}) > 1
    collated = pseudo_collate(found)
    batch = ImgDataPreprocessor(mean=[127.5], std=[127.5])(collated)["inputs"]
    assert batch["img"].shape == batch["gt_img"].shape == (4, 3, 6, 6)
    torch.testing.assert_close(batch["img"], -batch["gt_img"])
    assert len(batch["points"]) == 4 and batch["text"] == ["a picture"] * 4
    assert image_of_batch(collated, found[0]["data_samples"]).shape == (6, 6, 3)
    with pytest.raises(KeyError, match="the sample has no key 'mask'"):
        Compose([dict(type="PackInputs", input_key=["img", "mask"])])(sample())


class Roll:
    """A transform that only sees ``img``, and draws from every generator."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        import random

        shift = random.randrange(8) + int(np.random.randint(8)) + int(torch.randint(8, ()))
        return {**results, "img": results["img"].roll(shift, -1), "shift": shift}


def test_one_random_change_is_applied_alike_to_several_images() -> None:
    shifts = set()
    for _ in range(5):
        image = sample(24)["img"]
        found = Compose([dict(type="ApplyAlike", keys=["img", "gt_img"], transforms=[Roll()])])(
            {"img": image, "gt_img": 255 - image, "other": 1}
        )
        assert torch.equal(found["img"], 255 - found["gt_img"]) and found["other"] == 1
        assert torch.equal(found["img"], image.roll(found["shift"], -1))
        shifts.add(found["shift"])
    assert len(shifts) > 1, "the next sample is changed in another way"


def test_sizes_that_differ_are_padded_with_a_mask() -> None:
    samples = [
        {
            "points": torch.ones(length, 3),
            "image": torch.ones(2, 2),
            "name": "a",
            "target": {"boxes": np.ones((length, 4))},
        }
        for length in (2, 4, 1)
    ]
    batch = FUNCTIONS.get("pad_collate")(samples, padding_value=-1)
    assert batch["points"].shape == (3, 4, 3) and batch["points_mask"].sum(1).tolist() == [2, 4, 1]
    assert torch.equal(batch["points"].eq(1).all(-1), batch["points_mask"])
    assert batch["points"][2, 1:].eq(-1).all()
    assert batch["image"].shape == (3, 2, 2) and "image_mask" not in batch and batch["name"] == ["a"] * 3
    assert batch["target"]["boxes_mask"].shape == (3, 4)
    images = pad_collate([(torch.ones(3, 4, size), size) for size in (2, 5)])
    assert images[0].shape == (2, 3, 4, 5) and float(images[0][0].sum()) == 24 and images[1].tolist() == [2, 5]
    with pytest.raises(RuntimeError, match="cannot pad tensors with 1 and 2 dimensions"):
        pad_collate([{"a": torch.ones(2)}, {"a": torch.ones(2, 2)}])
