"""Data preprocessors. The hashes are from MMEngine 0.10.7."""

import hashlib
from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor

from trainwright.engine.errors import DataError
from trainwright.engine.structures.sample import DataSample
from trainwright.models import BaseDataPreprocessor, ClsDataPreprocessor, ImgDataPreprocessor, stack_batch

IMAGENET = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}


@pytest.fixture
def images() -> list[Tensor]:
    torch.manual_seed(0)
    sizes = ((17, 20), (20, 11), (20, 20))
    return [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in sizes]


def fingerprint(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("ragged", "even", "arguments"),
    [
        ("f89e707f08c80266", "fdc3a736c4dc8b02",
         {**IMAGENET, "bgr_to_rgb": True, "pad_size_divisor": 32, "pad_value": 3.5}),
        ("0e3fa7af72e23f82", "1900846230f3fafd", {"mean": [1], "std": [3]}),
        ("bed0471d9faecb22", "f975ccd2bd603356", {}),
    ],
)  # fmt: skip
def test_numbers_are_those_of_mmengine(images: list[Tensor], ragged: str, even: str, arguments: dict[str, Any]) -> None:
    preprocessor = ImgDataPreprocessor(**arguments)
    pair = [images[2], images[2]]
    assert fingerprint(preprocessor({"inputs": images})["inputs"]) == ragged
    assert fingerprint(preprocessor({"inputs": pair})["inputs"]) == even
    assert fingerprint(preprocessor({"inputs": torch.stack(pair)})["inputs"]) == even


def test_batches_of_all_shapes(images: list[Tensor]) -> None:
    preprocessor = ImgDataPreprocessor(**IMAGENET)
    labels = torch.arange(3)
    as_dict = preprocessor({"inputs": images, "data_samples": labels, "extra": "kept"})
    assert list(as_dict) == ["inputs", "data_samples", "extra"]
    as_list = preprocessor([images, labels])
    assert torch.equal(as_dict["inputs"], as_list[0])
    assert as_dict["data_samples"].tolist() == as_list[1].tolist() == [0, 1, 2]
    assert preprocessor({"inputs": images})["data_samples"] is None
    assert as_dict["inputs"].shape == (3, 3, 20, 20)


def test_the_batch_itself_is_not_changed() -> None:
    batch = {"inputs": torch.ones(2, 1, 4, 4)}
    ImgDataPreprocessor(mean=[1], std=[2])(batch)
    assert batch["inputs"].unique().tolist() == [1]
    assert list(batch) == ["inputs"]


def test_channel_order_and_uint8() -> None:
    image = torch.tensor([10, 20, 30], dtype=torch.uint8).view(3, 1, 1)
    for arguments in ({"rgb_to_bgr": True}, {"bgr_to_rgb": True}):
        batch = ImgDataPreprocessor(mean=[0, 0, 10], std=[1, 2, 1], **arguments)({"inputs": [image]})["inputs"]
        assert batch.dtype == torch.float32
        assert batch.flatten().tolist() == [30, 10, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mean": [1]}, "must be given together"),
        ({"mean": [1, 2], "std": [1, 2]}, "1 or 3 values, not 2 and 2"),
        ({"bgr_to_rgb": True, "rgb_to_bgr": True}, "cannot both be True"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImgDataPreprocessor(**arguments)


def test_wrong_batches() -> None:
    preprocessor = ImgDataPreprocessor(**IMAGENET)
    with pytest.raises(ValueError, match="mean and std have 3 values, .* 1 channels"):
        preprocessor({"inputs": torch.zeros(2, 1, 4, 4)})
    with pytest.raises(ValueError, match=r"shape \(N, C, H, W\)"):
        preprocessor({"inputs": torch.zeros(3, 4, 4)})
    with pytest.raises(TypeError, match="'inputs' must be a tensor or a list of tensors, not NoneType"):
        preprocessor({"image": 1})
    with pytest.raises(TypeError, match="a batch must be a dict, list or tuple, not Tensor"):
        preprocessor(torch.zeros(2, 3, 4, 4))


def test_mean_and_std_are_not_saved() -> None:
    assert list(ImgDataPreprocessor(**IMAGENET).state_dict()) == []


def test_cast_data_keeps_containers() -> None:
    Pair = namedtuple("Pair", "x y")
    sample = DataSample(gt_label=torch.tensor(1))
    data = {"a": [torch.ones(1), "text", None, b"bytes", 3], "b": (Pair(torch.zeros(1), 2),), "c": sample}
    preprocessor = BaseDataPreprocessor().to("meta")
    cast = preprocessor(data)
    assert cast["a"][0].is_meta
    assert cast["a"][1:] == ["text", None, b"bytes", 3]
    assert isinstance(cast["b"], tuple)
    assert cast["b"][0].x.is_meta
    assert cast["b"][0].y == 2
    assert cast["c"].gt_label.is_meta
    assert not sample.gt_label.is_meta


@pytest.mark.parametrize("widths", [(4, 4), (4, 3)])
def test_stack_batch_keeps_clips_with_channels_last(widths: tuple[int, int]) -> None:
    clips = [torch.arange(3.0 * 5 * w * 2).view(3, 5, w, 2).permute(0, 3, 1, 2) for w in widths]
    batch = stack_batch(clips, pad_value=-1)
    assert batch.shape == (2, 3, 2, 5, 4)
    assert batch.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch[1, ..., : widths[1]], clips[1])
    assert (batch[1, ..., widths[1] :] == -1).all()


def test_stack_batch_pads_every_axis_but_the_first() -> None:
    batch = stack_batch([torch.ones(2, 3), torch.ones(2, 5)], pad_size_divisor=4, pad_value=-1)
    assert batch.shape == (2, 2, 8)
    assert batch[0, 0].tolist() == [1, 1, 1, -1, -1, -1, -1, -1]
    assert batch[1, 1].tolist() == [1, 1, 1, 1, 1, -1, -1, -1]
    with pytest.raises(ValueError, match=r"number of dimensions, not \[1, 2\]"):
        stack_batch([torch.ones(1), torch.ones(1, 1)])


def test_labels_of_a_list_are_moved_together() -> None:
    preprocessor = ClsDataPreprocessor()
    images = [torch.zeros(3, 4, 5)] * 3
    samples = [DataSample(gt_label=torch.tensor([label])) for label in (2, 0, 1)]
    in_training = preprocessor({"inputs": images, "data_samples": samples}, training=True)["data_samples"]
    assert in_training.gt_label.tolist() == [2, 0, 1]
    assert len(preprocessor({"inputs": images, "data_samples": samples})["data_samples"]) == 3


def test_batch_augments_only_in_training() -> None:
    preprocessor = ClsDataPreprocessor(num_classes=3, batch_augments=[{"type": "Mixup"}, {"type": "CutMix"}])
    images, labels = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    for batch in ({"inputs": images, "data_samples": labels}, [images, labels]):
        mixed = preprocessor(batch, training=True)
        plain = preprocessor(batch)
        mixed_images, soft = mixed.values() if isinstance(mixed, dict) else mixed
        plain_images, hard = plain.values() if isinstance(plain, dict) else plain
        assert not torch.equal(mixed_images, images)
        assert soft.shape == (4, 3)
        torch.testing.assert_close(soft.sum(1), torch.ones(4))
        assert torch.equal(plain_images, images)
        assert torch.equal(hard, labels)


def test_images_of_different_sizes_are_not_padded_for_classification() -> None:
    images = [torch.zeros(3, 8, 8), torch.zeros(3, 8, 8), torch.zeros(3, 6, 8)]
    samples = [DataSample(gt_label=torch.tensor(0), metainfo={"img_path": f"{number}.png"}) for number in range(3)]
    for training in (True, False):
        for batch, names in (({"inputs": images, "data_samples": samples}, ("0.png", "2.png")), ([images], ("image 0", "image 2"))):  # fmt: skip
            with pytest.raises(
                DataError, match=rf"\(8, 8\), {names[0]}.*, and \(6, 8\), {names[1]}.*RandomResizedCrop"
            ):
                ClsDataPreprocessor()(batch, training)
        assert ImgDataPreprocessor()({"inputs": images}, training)["inputs"].shape == (3, 3, 8, 8)
    padded = ClsDataPreprocessor(pad_size_divisor=16)({"inputs": images[:2]})
    assert padded["inputs"].shape == (2, 3, 16, 16)
    assert ClsDataPreprocessor()({"inputs": [images[0], images[0].byte()]})["inputs"].shape == (2, 3, 8, 8)


def test_images_with_different_channels_cannot_be_batched() -> None:
    with pytest.raises(DataError, match="images with 1 and 3 channels"):
        ImgDataPreprocessor()({"inputs": [torch.zeros(3, 8, 8), torch.zeros(1, 8, 8)]})
