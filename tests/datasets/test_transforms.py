import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from torchvision import tv_tensors
from torchvision.transforms import v2

from trainwright.datasets import Compose, KeepAnnotations, LoadImageFromFile, PackInputs, vision_transforms
from trainwright.datasets.transforms import oriented_size
from trainwright.engine import DamagedFileError
from trainwright.engine.errors import DataError
from trainwright.engine.registry import TRANSFORMS

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


@pytest.fixture
def sample(tmp_path):
    PILImage.fromarray(PIXELS).save(tmp_path / "a.png")
    return {"img_path": str(tmp_path / "a.png"), "gt_label": 2, "sample_idx": 0}


def test_load_gives_rgb_planes(sample):
    loaded = LoadImageFromFile()(sample)
    assert isinstance(loaded["img"], tv_tensors.Image)
    assert loaded["img"].dtype == torch.uint8
    assert np.array_equal(loaded["img"].numpy(), PIXELS.transpose(2, 0, 1))
    assert loaded["ori_shape"] == (6, 8)


def test_load_gray_and_float(sample):
    gray = LoadImageFromFile(color_type="grayscale")(dict(sample))["img"]
    assert np.array_equal(gray[0].numpy(), np.asarray(PILImage.fromarray(PIXELS).convert("L")))
    real = LoadImageFromFile(to_float32=True)(dict(sample))["img"]
    assert real.dtype == torch.float32 and isinstance(real, tv_tensors.Image)
    assert np.array_equal(real.numpy(), PIXELS.transpose(2, 0, 1).astype(np.float32))
    with pytest.raises(ValueError, match="color_type must be .*'unchanged'.*, not 'bgr'"):
        LoadImageFromFile(color_type="bgr")


def test_load_applies_the_exif_orientation(tmp_path):
    exif = PILImage.Exif()
    exif[0x0112] = 6
    PILImage.fromarray(PIXELS).save(tmp_path / "turned.png", exif=exif)
    assert LoadImageFromFile()({"img_path": tmp_path / "turned.png"})["ori_shape"] == (8, 6)
    assert oriented_size(tmp_path / "turned.png") == (8, 6)


@pytest.mark.parametrize("content", [b"no image at all", "truncated"])
def test_corrupt_images_are_named(tmp_path, sample, content):
    path = tmp_path / "bad.png"
    whole = (tmp_path / "a.png").read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content == "truncated" else content)
    with pytest.raises(DamagedFileError, match=str(path)) as caught:
        LoadImageFromFile()({"img_path": str(path)})
    assert "ignore_empty" in caught.value.__notes__[0] and "skip_bad_samples" in caught.value.__notes__[0]
    assert LoadImageFromFile(ignore_empty=True)({"img_path": str(path)}) is None


def test_pack(sample):
    packed = PackInputs()(LoadImageFromFile()(sample))
    assert set(packed) == {"inputs", "data_samples"}
    assert type(packed["inputs"]) is torch.Tensor and packed["inputs"].shape == (3, 6, 8)
    label = packed["data_samples"].gt_label
    assert (label.dtype, label.shape, label.item()) == (torch.int64, (), 2)
    assert packed["data_samples"].metainfo == {
        "sample_idx": 0, "img_path": sample["img_path"], "ori_shape": (6, 8), "img_shape": (6, 8),
    }  # fmt: skip


def test_pack_takes_arrays_pictures_and_several_labels():
    for image in (PIXELS, PILImage.fromarray(PIXELS), PIXELS[:, :, 0]):
        inputs = PackInputs()({"img": image})["inputs"]
        expected = np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)
        assert inputs.dtype == torch.uint8 and np.array_equal(inputs.numpy(), expected)
    packed = PackInputs(meta_keys=("img_path",), input_key="lr")({"lr": PIXELS, "gt_label": [0, 1], "img_path": "x"})
    assert packed["data_samples"].gt_label.tolist() == [0, 1]
    assert packed["data_samples"].metainfo == {"img_path": "x"}
    assert "gt_label" not in PackInputs()({"img": PIXELS})["data_samples"]
    with pytest.raises(KeyError, match="'img', only 'img_path': .*LoadImageFromFile"):
        PackInputs()({"img_path": "x"})


def test_a_whole_pipeline(sample):
    pipeline = Compose(
        [
            {"type": "LoadImageFromFile"},
            {"type": "Resize", "size": [16, 12]},
            {"type": "RandomCrop", "size": 8, "padding": 2},
            {"type": "RandomApply", "transforms": [{"type": "RandomHorizontalFlip", "p": 1.0}], "p": 0.5},
            {"type": "RandomChoice", "transforms": [{"type": "RandomVerticalFlip"}, {"type": "Identity"}]},
            {
                "type": "RandomOrder",
                "transforms": [{"type": "RandomInvert"}, {"type": "ColorJitter", "hue": 0.2}],
            },
            {"type": "ToDtype", "dtype": "float32", "scale": True},
            {"type": "PackInputs"},
        ]
    )
    torch.manual_seed(0)
    packed = pipeline(dict(sample))
    torch.manual_seed(0)
    assert torch.equal(packed["inputs"], pipeline(dict(sample))["inputs"]), "torch's generator alone decides"
    assert packed["inputs"].shape == (3, 8, 8) and packed["inputs"].dtype == torch.float32
    assert packed["inputs"].min() >= 0 and packed["inputs"].max() <= 1
    assert packed["data_samples"].img_shape == (8, 8) and packed["data_samples"].ori_shape == (6, 8)
    assert packed["data_samples"].gt_label.item() == 2


@pytest.mark.long
def test_a_name_is_enough_to_find_a_transform():
    code = (
        "from trainwright.engine.registry import TRANSFORMS;"
        "print(TRANSFORMS.build(dict(type='RandomCrop', size=28, padding=4)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("RandomCrop(size=(28, 28), padding=[4, 4, 4, 4]")


def test_every_transform_of_torchvision_is_registered():
    names = {
        name
        for name, member in vars(v2).items()
        if isinstance(member, type) and issubclass(member, v2.Transform) and member not in (v2.Transform, v2.MixUp)
    }
    assert len(names) > 50
    assert names <= TRANSFORMS.module_dict.keys()
    assert TRANSFORMS.get("ColorJitter") is v2.ColorJitter
    assert issubclass(TRANSFORMS.get("RandomResizedCrop"), v2.RandomResizedCrop), "with another backend"
    assert issubclass(TRANSFORMS.get("RandomCrop"), v2.RandomCrop), "with another meaning of fill"
    assert TRANSFORMS.get("Compose") is Compose


def test_arguments_that_a_config_cannot_write():
    image = tv_tensors.Image(torch.full((1, 2, 2), 255, dtype=torch.uint8))
    assert vision_transforms.ToDtype("torch.float32", scale=True)(image).max() == 1
    assert vision_transforms.ToDtype({tv_tensors.Image: torch.float64, "others": None})(image).dtype == torch.float64
    assert vision_transforms.ConvertImageDtype("float16")(image).dtype == torch.float16
    assert vision_transforms.AutoAugment("cifar10").policy is v2.AutoAugmentPolicy.CIFAR10
    for name in ("float33", "nn"):
        with pytest.raises(ValueError, match=f"{name!r} is not a data type of torch"):
            vision_transforms.ToDtype(name)
    with pytest.raises(ValueError, match="'mnist' is not a valid AutoAugmentPolicy"):
        vision_transforms.AutoAugment("mnist")


def test_only_the_listed_annotations_are_kept():
    sample = {"img": 1, "gt_label": 2, "gt_masks": 3, "gt_bboxes": 4}
    assert KeepAnnotations(["gt_label", "gt_seg_map"])(sample) == {"img": 1, "gt_label": 2}
    with pytest.raises(ValueError, match="'gt_', got 'img'"):
        KeepAnnotations(["img"])


def test_random_erasing_writes_its_value_into_a_rectangle() -> None:
    image = torch.zeros(3, 20, 20, dtype=torch.uint8)
    erased = TRANSFORMS.build(dict(type="RandomErasing", p=1.0, value=[124, 116, 104]))({"img": image})["img"]
    rows, columns = torch.nonzero(erased[0], as_tuple=True)
    inside = erased[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert torch.equal(inside, torch.tensor([124, 116, 104]).view(3, 1, 1).expand_as(inside).to(torch.uint8))
    assert 0.02 <= inside[0].numel() / 400 <= 0.4
    unchanged = TRANSFORMS.build(dict(type="RandomErasing", p=0.0))({"img": image})["img"]
    assert torch.equal(unchanged, image)


def test_annotations_that_would_be_lost_are_named() -> None:
    sample = {"img": torch.zeros(3, 4, 4), "img_path": "a.png", "gt_flow": torch.ones(4, 4)}
    with pytest.raises(DataError, match="a.png: PackInputs does not pack 'gt_flow': KeepAnnotations drops it"):
        PackInputs()(dict(sample))
    with pytest.raises(DataError, match="'gt_lable': did you mean 'gt_label'"):
        PackInputs()({"img": sample["img"], "gt_lable": 3})

    class PackFlow(PackInputs):
        packed_keys = (*PackInputs.packed_keys, "gt_flow")

        def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
            packed = super().__call__(results)
            packed["data_samples"].gt_flow = results["gt_flow"]
            return packed

    assert PackFlow()(dict(sample))["data_samples"].gt_flow.sum() == 16
    assert PackInputs(meta_keys=("gt_flow",))(dict(sample))["data_samples"].gt_flow.sum() == 16
    kept = KeepAnnotations(())(dict(sample))
    assert "gt_flow" not in PackInputs()(kept)["data_samples"]
