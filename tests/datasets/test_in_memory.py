import gzip
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset

from trainwright.datasets import (
    CIFAR10,
    CIFAR100,
    MNIST,
    XOR,
    BatchRandomCrop,
    BatchRandomHorizontalFlip,
    FashionMNIST,
    FashionMNISTSubset,
    InMemoryDataset,
    TwoClouds,
    pseudo_collate,
    whole_batch,
)
from trainwright.datasets.classification.mnist import read_idx
from trainwright.engine.registry import DATASETS

SHIPPED = Path(read_idx.__code__.co_filename).parents[1] / "data" / "fashion_mnist_subset"


class Numbered(InMemoryDataset):
    """Twelve images of shape (1, 4, 4); each holds its number everywhere."""

    METAINFO: ClassVar = {"classes": ("even", "odd")}

    def load_tensors(self):
        numbers = torch.arange(12)
        return numbers.to(torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous(), numbers % 2


class AddNumber:
    """A pipeline step that marks the sample and returns it for inspection."""

    def __call__(self, sample):
        return {**sample, "seen": True}


def first_pixels(dataset):
    return dataset.inputs[:, 0, 0, 0].tolist()


def test_sample_and_batch():
    dataset = Numbered()
    assert len(dataset) == 12
    sample = dataset[-1]
    assert (sample["inputs"].shape, sample["inputs"].dtype) == ((1, 4, 4), torch.uint8)
    assert (sample["data_samples"].gt_label.shape, sample["data_samples"].gt_label.item()) == ((), 1)
    batch = dataset.__getitems__([3, 0, 3])
    assert batch["inputs"][:, 0, 0, 0].tolist() == [3, 0, 3]
    assert batch["data_samples"].gt_label.tolist() == [1, 0, 1]
    assert batch["data_samples"].gt_label.dtype == torch.int64
    assert dataset.get_cat_ids(3) == [1]
    with pytest.raises(IndexError, match="sample 12 is out of range .* 12"):
        dataset[12]


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("collate", [whole_batch, pseudo_collate])
def test_a_loader_gets_whole_batches(num_workers, collate):
    loader = DataLoader(Numbered(), batch_size=5, collate_fn=collate, num_workers=num_workers)
    batches = list(loader)
    assert [batch["inputs"].shape for batch in batches] == [(5, 1, 4, 4), (5, 1, 4, 4), (2, 1, 4, 4)]
    assert torch.cat([batch["data_samples"].gt_label for batch in batches]).tolist() == [0, 1] * 6
    (batch,) = DataLoader(Subset(Numbered(), [7, 8]), batch_size=2, collate_fn=collate, num_workers=num_workers)
    assert batch["inputs"][:, 0, 0, 0].tolist() == [7, 8]


def test_a_pipeline_gets_single_samples():
    dataset = Numbered(pipeline=[AddNumber()])
    assert not dataset.fetches_batches and not dataset.deterministic
    assert dataset.__getitems__ is None
    sample = dataset[3]
    assert type(sample["img"]).__name__ == "Image" and sample["img"].shape == (1, 4, 4)
    assert (sample["gt_label"], sample["sample_idx"], sample["seen"]) == (1, 3, True)
    (batch,) = DataLoader(Subset(dataset, range(2)), batch_size=2, collate_fn=pseudo_collate)
    assert batch["gt_label"] == [0, 1]


def test_a_pipeline_packs_to_the_same_sample_as_none():
    packed = Numbered(pipeline=[{"type": "PackInputs"}])[5]
    plain = Numbered()[5]
    assert type(packed["inputs"]) is torch.Tensor
    assert torch.equal(packed["inputs"], plain["inputs"])
    assert torch.equal(packed["data_samples"].gt_label, plain["data_samples"].gt_label)
    assert packed["data_samples"].metainfo == {"sample_idx": 5, "img_shape": (4, 4)}


def test_batch_transforms_apply_to_batches_and_to_samples():
    dataset = Numbered(batch_transforms=[lambda images: images + 100])
    assert dataset.fetches_batches and not dataset.deterministic and Numbered().deterministic
    assert dataset.__getitems__([3, 4])["inputs"][:, 0, 0, 0].tolist() == [103, 104]
    assert dataset[3]["inputs"][0, 0, 0] == 103
    assert first_pixels(dataset)[3] == 3, "the data itself is unchanged"
    with pytest.raises(ValueError, match="batch_transforms and pipeline exclude each other"):
        Numbered(batch_transforms=[torch.neg], pipeline=[AddNumber()])


def test_subsets():
    whole = Numbered(indices=range(0, 12, 2))
    assert first_pixels(whole) == [0, 2, 4, 6, 8, 10]
    part = whole.get_subset(-2)
    assert (first_pixels(part), part.labels.tolist(), len(part)) == ([8, 10], [0, 0], 2)
    assert part.metainfo == {"classes": ("even", "odd")}
    assert first_pixels(whole) == [0, 2, 4, 6, 8, 10]
    whole.get_subset_([5, 0])
    assert first_pixels(whole) == [10, 0]


def test_lazy_and_wrong_tensors():
    class Wrong(Numbered):
        def load_tensors(self):
            return torch.zeros(3, 1), torch.zeros(2)

    lazy = Wrong(lazy_init=True)
    with pytest.raises(ValueError, match="Wrong has 3 inputs but 2 labels"):
        lazy.full_init()
    assert Numbered(lazy_init=True).__getitems__([2])["data_samples"].gt_label.tolist() == [0]


def test_the_shipped_images():
    train, test = FashionMNISTSubset(), DATASETS.build({"type": "FashionMNISTSubset", "split": "test"})
    for dataset, per_class in ((train, 1000), (test, 200)):
        assert dataset.inputs.shape == (10 * per_class, 1, 28, 28)
        assert dataset.inputs.dtype == torch.uint8
        assert Counter(dataset.labels.tolist()) == dict.fromkeys(range(10), per_class)
    assert train.metainfo["classes"][0] == "T-shirt/top" and train.metainfo["classes"][9] == "Ankle boot"
    assert train.labels[:8].tolist() == [9, 0, 0, 3, 0, 2, 7, 2]
    assert train.inputs.sum().item() == 573_133_949


def test_the_notice_travels_with_the_data():
    assert "copyright 2017 Zalando SE, MIT" in (SHIPPED / "README.md").read_text()


def test_torchvisions_files_are_read(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for packed in SHIPPED.glob("*.gz"):
        (raw / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
    for folder in (tmp_path, raw):
        dataset = FashionMNIST(folder, split="test")
        assert torch.equal(dataset.inputs, FashionMNISTSubset("test").inputs)
        assert torch.equal(dataset.labels, FashionMNISTSubset("test").labels)
    assert FashionMNIST(tmp_path, split="train", download=True, indices=3).labels.tolist() == [9, 0, 0], (
        "files that are there are not downloaded again"
    )


@pytest.mark.parametrize("make", [MNIST, FashionMNIST, CIFAR10, CIFAR100])
def test_missing_files_are_reported_with_the_remedy(tmp_path, make):
    with pytest.raises(RuntimeError, match="not found") as caught:
        make(tmp_path)
    (note,) = caught.value.__notes__
    assert f"{make.__name__} from {str(tmp_path)!r}" in note and "download=True" in note
    with pytest.raises(ValueError, match="split must be 'train' or 'test', not 'val'"):
        make(tmp_path, split="val")


def test_missing_shipped_files_are_reported(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}.*'train'"):
        FashionMNISTSubset(root=tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").touch()
    with pytest.raises(ValueError, match="train-labels-idx1-ubyte.gz not found"):
        FashionMNISTSubset(root=tmp_path)


LABELS = gzip.decompress((SHIPPED / "t10k-labels-idx1-ubyte.gz").read_bytes())


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.gz", gzip.compress(LABELS)[:500], "is corrupt or truncated .*: download it again"),
        ("a.gz", gzip.compress(LABELS)[:-1], "is corrupt or truncated"),
        ("a.gz", b"<html>not found</html>", "is corrupt or truncated"),
        ("a.gz", gzip.compress(LABELS)[:300] + b"?" + gzip.compress(LABELS)[301:], "is corrupt or truncated"),
        ("a", LABELS[:-3], "expected 2000 values, got 1997"),
        ("a", LABELS + b"x", "expected 2000 values, got 2001"),
        ("a", b"\0\0\x08\3" + LABELS[4:], "is not an IDX file with 1 dimensions of uint8"),
        ("a", LABELS[:5], "is not an IDX file"),
        ("a", b"", "is not an IDX file"),
    ],
)
def test_corrupt_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_idx(tmp_path / name, ndim=1)
    assert str(caught.value).startswith(str(tmp_path / name))


@pytest.mark.parametrize(
    "make, files, keys, num_classes",
    [
        (CIFAR10, ("cifar-10-batches-py", "data_batch_1", "batches.meta"), ("labels", "label_names"), 10),
        (CIFAR100, ("cifar-100-python", "train", "meta"), ("fine_labels", "fine_label_names"), 100),
    ],
)
def test_cifar_is_read_by_torchvision(tmp_path, monkeypatch, make, files, keys, num_classes):
    from torchvision import datasets

    folder, part, meta_name = files
    labels_key, names_key = keys
    images = np.random.default_rng(0).integers(0, 256, (5, 3072), dtype=np.uint8)
    names = [f"class {i}" for i in range(num_classes)]
    (tmp_path / folder).mkdir()
    for name, content in [
        (part, {"data": images, labels_key: [1, 2, 3, 4, 5]}),
        (meta_name, {names_key: names}),
    ]:
        (tmp_path / folder / name).write_bytes(pickle.dumps(content))
    torchvision_class = getattr(datasets, make.__name__)
    monkeypatch.setattr(torchvision_class, "train_list", [[part, None]])
    monkeypatch.setattr(torchvision_class, "test_list", [])
    monkeypatch.setattr(torchvision_class, "meta", {"filename": meta_name, "key": names_key, "md5": None})
    dataset = make(tmp_path)
    assert torch.equal(dataset.inputs, torch.from_numpy(images).reshape(5, 3, 32, 32))
    assert dataset.labels.tolist() == [1, 2, 3, 4, 5]
    assert len(dataset.metainfo["classes"]) == num_classes
    assert dataset.metainfo["classes"][3] == ("cat" if make is CIFAR10 else "class 3")


def test_two_clouds_are_separable():
    dataset = TwoClouds(num_samples=1001)
    assert dataset.inputs.shape == (1001, 2) and dataset.inputs.dtype == torch.float32
    side = dataset.inputs.sum(1)
    assert torch.equal((side > 0).long(), dataset.labels)
    assert side.abs().min() >= 0.5, "at least 0.35 from the line"
    assert dataset.labels.bincount().tolist() == [501, 500]
    assert torch.equal(dataset.inputs, TwoClouds(1001).inputs)
    assert not torch.equal(dataset.inputs, TwoClouds(1001, seed=1).inputs)


def test_xor_needs_more_than_a_line():
    dataset = XOR(num_samples=400)
    x, y = dataset.inputs.T
    assert torch.equal((x * y < 0).long(), dataset.labels)
    assert torch.minimum(x.abs(), y.abs()).min() >= 0.25
    design = torch.cat([dataset.inputs, torch.ones(400, 1)], dim=1)
    fitted = design @ torch.linalg.lstsq(design, dataset.labels.float()[:, None]).solution
    accuracy = ((fitted[:, 0] > 0.5).long() == dataset.labels).float().mean()
    assert accuracy < 0.8
    with pytest.raises(ValueError, match="num_samples must be at least 4, got 3"):
        XOR(num_samples=3)


def test_flip_draws_for_each_image():
    images = torch.arange(1000 * 2 * 3 * 4, dtype=torch.int32).reshape(1000, 2, 3, 4)
    torch.manual_seed(0)
    flipped = BatchRandomHorizontalFlip(prob=0.25)(images)
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(flipped, images)]
    untouched = [torch.equal(a, b) for a, b in zip(flipped, images)]
    assert all(m != u for m, u in zip(mirrored, untouched))
    assert 200 < sum(mirrored) < 300
    assert torch.equal(BatchRandomHorizontalFlip(0)(images), images)
    assert torch.equal(BatchRandomHorizontalFlip(1)(images), images.flip(-1))
    with pytest.raises(ValueError, match=r"prob must be in \[0, 1\], not 2"):
        BatchRandomHorizontalFlip(2)


def test_crop_draws_a_window_for_each_image():
    images = torch.arange(1, 1 + 500 * 2 * 3 * 4, dtype=torch.int32).reshape(500, 2, 3, 4)
    torch.manual_seed(0)
    cropped = BatchRandomCrop(padding=1, fill=-1)(images)
    assert cropped.shape == images.shape and cropped.dtype == images.dtype
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1), value=-1)
    places = Counter()
    for after, before in zip(cropped, padded):
        (place,) = [
            (top, left)
            for top in range(3)
            for left in range(3)
            if torch.equal(after, before[:, top : top + 3, left : left + 4])
        ]
        places[place] += 1
    assert len(places) == 9 and min(places.values()) > 30
    with pytest.raises(ValueError, match="padding must be at least 1, not 0"):
        BatchRandomCrop(padding=0)


def test_the_shipped_job_reads_its_data_without_torchvision():
    code = (
        "import sys; from trainwright.engine.registry import DATASETS;"
        "crop = dict(type='BatchRandomCrop', padding=2);"
        "d = DATASETS.build(dict(type='FashionMNISTSubset', batch_transforms=[crop]));"
        "d.__getitems__([0, 1]); assert 'torchvision' not in sys.modules and 'PIL' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
