import numpy as np
import pytest
from PIL import Image as PILImage
from torch.utils.data import DataLoader

from trainwright.datasets import CustomDataset, ImageFolder, ImageNet, default_collate

FILES = [
    "train/cat/2.png",
    "train/cat/10.PNG",
    "train/dog/deep/1.png",
    "train/dog/notes.txt",
    "val/cat/3.png",
]


@pytest.fixture
def root(tmp_path):
    for number, name in enumerate(FILES):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".txt":
            path.write_text("no image")
        else:
            PILImage.fromarray(np.full((4, 5, 3), number, dtype=np.uint8)).save(path)
    return tmp_path


def listed(dataset, root):
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    return [(info["img_path"].removeprefix(f"{root}/"), info["gt_label"]) for info in infos]


def test_folders_are_classes(root):
    dataset = ImageFolder(root, split="train")
    assert listed(dataset, root) == [
        ("train/cat/10.PNG", 0),
        ("train/cat/2.png", 0),
        ("train/dog/deep/1.png", 1),
    ]
    assert dataset.metainfo == {"classes": ("cat", "dog")}
    assert dataset.get_cat_ids(2) == [1]
    assert len(ImageFolder(root, split="train", indices=1)) == 1
    assert len(ImageFolder(root, split="train", extensions=[".txt"])) == 1


def test_metainfo_numbers_the_classes(root):
    dataset = ImageFolder(root, split="train", metainfo={"classes": ["dog", "bird", "cat"]})
    assert [label for _, label in listed(dataset, root)] == [2, 2, 0]
    with pytest.raises(ValueError, match="unknown class 'cat': .*metainfo"):
        ImageFolder(root, split="train", metainfo={"classes": ["dog"]})


def test_a_list_of_images(root):
    (root / "list.txt").write_text("cat/2.png 0\n\ndog/deep/1.png dog\nwith space.png 1\n")
    dataset = ImageFolder(root, split="train", ann_file="list.txt", metainfo={"classes": ("cat", "dog")})
    assert listed(dataset, root) == [
        ("train/cat/2.png", 0),
        ("train/dog/deep/1.png", 1),
        ("train/with space.png", 1),
    ]


@pytest.mark.parametrize(
    "text, message",
    [
        ("a.png 0\nb.png", "list.txt:2: expected 'path label'.*'b.png'"),
        ("a.png bird", "list.txt:1: expected 'path label'"),
        ("a.png -1", "list.txt:1: expected 'path label'"),
        ("a.png 2", "list.txt:1: label 2 is out of range.* 2 classes"),
    ],
)
def test_bad_lines_are_named(root, text, message):
    (root / "list.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        ImageFolder(root, ann_file="list.txt", metainfo={"classes": ("cat", "dog")})


def test_nothing_found_is_an_error(root):
    with pytest.raises(FileNotFoundError, match=r"folder .*/test' not found"):
        ImageFolder(root, split="test")
    with pytest.raises(FileNotFoundError, match="no images found in .*train/dog/deep"):
        ImageFolder(root, split="train/dog/deep")
    with pytest.raises(FileNotFoundError, match=r"nolist\.txt"):
        ImageFolder(root, ann_file="nolist.txt")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_of_images(root, num_workers):
    pipeline = [{"type": "LoadImageFromFile"}, {"type": "PackInputs"}]
    dataset = ImageFolder(root, split="train", pipeline=pipeline)
    (batch,) = DataLoader(dataset, batch_size=3, collate_fn=default_collate, num_workers=num_workers)
    assert batch["inputs"].shape == (3, 3, 4, 5)
    assert batch["inputs"][:, 0, 0, 0].tolist() == [1, 0, 2]
    assert [sample.gt_label.item() for sample in batch["data_samples"]] == [0, 0, 1]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_corrupt_image_is_named_in_workers_too(root, num_workers):
    (root / "train/cat/2.png").write_bytes(b"broken")
    dataset = ImageFolder(root, split="train", pipeline=[{"type": "LoadImageFromFile"}])
    with pytest.raises(OSError) as caught:
        list(DataLoader(dataset, batch_size=3, num_workers=num_workers, collate_fn=default_collate))
    message = str(caught.value) + str(getattr(caught.value, "__notes__", ""))
    assert "train/cat/2.png is damaged" in message
    assert "in transform LoadImageFromFile(" in message


def test_a_dataset_of_mmpretrain(root):
    assert listed(CustomDataset(root, "train"), root) == listed(ImageFolder(root, "train"), root)
    (root / "list.txt").write_text("cat/2.png 0\n")
    by_list = CustomDataset(root, dict(img_path="train"), "list.txt")
    assert listed(by_list, root) == [("train/cat/2.png", 0)]


def test_images_without_labels(root):
    dataset = CustomDataset(root, with_label=False)
    assert [sorted(dataset.get_data_info(index)) for index in range(4)] == [["img_path", "sample_idx"]] * 4
    (root / "list.txt").write_text("cat/2.png\nwith space.png\n")
    dataset = CustomDataset(root, "train", "list.txt", with_label=False)
    assert dataset.get_data_info(1)["img_path"] == f"{root}/train/with space.png"


@pytest.mark.long
def test_imagenet(root):
    (root / "val.txt").write_text("cat/3.png 65\n")
    dataset = ImageNet(root, "val", "val.txt")
    assert listed(dataset, root) == [("val/cat/3.png", 65)]
    assert len(dataset.metainfo["classes"]) == 1000
    assert dataset.metainfo["classes"][65] == "sea snake"
    with pytest.raises(ValueError, match="val has 1 folders, expected 1000"):
        ImageNet(root, "val")
    for number in range(1000):
        folder = root / "all" / f"n{number:08d}"
        folder.mkdir(parents=True)
        (folder / "a.JPEG").touch()
    assert [label for _, label in listed(ImageNet(root, "all"), root)] == list(range(1000))
