"""Images with captions, from tables, JSON lines, COCO and drawn."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from trainwright.datasets import CaptionedShapes, ImageTextDataset, PackInputs, RandomCaption
from trainwright.engine import DataError, check
from trainwright.engine.visualization.samples import draw_sample

CSV = 'path,caption\nb.jpg," a bird, red "\na.jpg,a tree\nb.jpg,a red bird\n'
FILES = {
    "pairs.csv": CSV,
    "columns.tsv": "image\tcaption1\tcaption2\nb.jpg\ta bird, red\ta red bird\na.jpg\ta tree\t\n",
    "pairs.jsonl": '{"file_name": "b.jpg", "text": ["a bird, red", "a red bird"]}\n\n{"file_name": "a.jpg", "text": "a tree"}\n',
    "captions.json": json.dumps(dict(
        images=[dict(id=7, file_name="b.jpg"), dict(id=3, file_name="a.jpg"), dict(id=5, file_name="none.jpg")],
        annotations=[
            dict(id=1, image_id=7, caption="a bird, red"), dict(id=2, image_id=3, caption="a tree\n"),
            dict(id=3, image_id=7, caption="a red bird"),
        ],
    )),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_all_formats_give_the_captions_of_each_image(name: str, tmp_path: Path, log: Any) -> None:
    (tmp_path / name).write_text(FILES[name])
    (tmp_path / "images").mkdir()
    dataset = ImageTextDataset(name, data_root=tmp_path, data_prefix=dict(img_path="images"))
    found = [dataset.get_data_info(index) for index in range(len(dataset))]
    assert [Path(info["img_path"]).relative_to(tmp_path).as_posix() for info in found] == [
        "images/b.jpg",
        "images/a.jpg",
    ]
    assert [info["gt_caption"] for info in found] == [["a bird, red", "a red bird"], ["a tree"]]
    assert dataset.captions() == ["a bird, red", "a red bird", "a tree"]
    assert ImageTextDataset(name, data_root=tmp_path, max_captions=1).captions() == ["a bird, red", "a tree"]
    assert len(list(dataset.check_annotations())) == 2  # no such files
    assert ("1 of 3 images have no caption" in log.text) == (name == "captions.json")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "a.csv is empty"),
        ("a.csv", "path,caption\n", "a.csv has no captions"),
        ("a.csv", "path,caption\na.jpg,\n", r"a.csv:2: a.jpg has an empty caption"),
        ("a.csv", "path,caption\n,a tree\n", r"a.csv:2: 'path' must be the path of an image, got ''"),
        ("a.csv", "path,caption\na.jpg,a bird, red\n", r"a.csv:2: expected 2 values.* got 3: put captions with commas in"),
        ("a.csv", "place,caption\na.jpg,a tree\n", r"a.csv:2: there is no column of images, only place, caption: name a"),
        ("a.csv", "path,words\na.jpg,a tree\n", r"a.csv:2: there is no column of captions, only path, words: name one"),
        ("a.jsonl", "[1]\n", r"a.jsonl:1: expected an object with an image and a caption"),
        ("a.jsonl", '{"path": "a.jpg"\n', r"a.jsonl:1: is not JSON"),
        ("a.jsonl", '{"path": "a.jpg", "caption": 3}\n', r"a.jsonl:1: a.jpg has the caption 3"),
        ("a.jsonl", '{"path": "a.jpg", "caption": []}\n', r"a.jsonl:1: a.jpg has an empty caption"),
        ("a.json", "[]", r"a.json has no captions in COCO format: expected images and annotations, got a list"),
        ("a.json", '{"images": [], "annotations": [{"id": 1, "bbox": []}]}', "annotation 1 has no caption.*captions_"),
        ("a.json", '{"images": [], "annotations": [{"id": 1, "image_id": 4, "caption": "a"}]}', "no image with the id 4"),
    ],
)  # fmt: skip
def test_wrong_data_is_refused_with_its_place(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        ImageTextDataset(name, data_root=tmp_path)


def test_captions_may_contain_any_kind_of_line_break(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('path,caption\r\na.jpg,"one\ntwo"\r\nb.jpg,three\u2028four\r\n', newline="")
    (tmp_path / "a.jsonl").write_text('{"path": "a.jpg", "caption": "one\u2028two"}\r\n', newline="")
    assert ImageTextDataset("a.csv", data_root=tmp_path).captions() == ["one\ntwo", "three\u2028four"]
    assert ImageTextDataset("a.jsonl", data_root=tmp_path).captions() == ["one\u2028two"]


def test_columns_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("where,words,title\na.jpg,a tree,x\n")
    named = dict(ann_file="a.csv", data_root=tmp_path, image_key="where")
    assert ImageTextDataset(**named, caption_key="words").captions() == ["a tree"]
    assert ImageTextDataset(**named, caption_key=("words", "title")).captions() == ["a tree", "x"]
    with pytest.raises(DataError, match=r"a.csv:2: there is no 'word', only where, words, title: did you mean 'words'"):
        ImageTextDataset(**named, caption_key="word")


def test_one_caption_is_drawn_and_packed() -> None:
    random.seed(0)
    draw, sample = RandomCaption(), dict(gt_caption=["a", "b", "c"], img=torch.zeros(3, 2, 2))
    assert {draw(sample)["gt_caption"] for _ in range(50)} == {"a", "b", "c"}
    assert draw(dict(gt_caption="a")) == dict(gt_caption="a") and draw({}) == {}  # an image for inference
    assert PackInputs()(dict(sample))["data_samples"].gt_caption == ["a", "b", "c"]
    with pytest.raises(TypeError, match="gt_caption must be"):
        PackInputs()(dict(sample, gt_caption=3))


def test_drawn_images_show_what_their_captions_say() -> None:
    dataset = CaptionedShapes(4, size=32, colors=["red", "blue"], kinds=["square"], num_shapes=2)
    assert dataset.captions() == [text for index in range(4) for text in dataset[index]["gt_caption"]]
    for index in range(4):
        info = dataset.get_data_info(index)
        image, words = info["img"].float(), info["gt_caption"][0].split()
        assert words[4:6] == ["left", "of"] and torch.equal(image.byte(), dataset.get_data_info(index)["img"])
        excess = image[0] - image[2]  # of red over blue
        for half, color in ((excess[:, :16], words[2]), (excess[:, 16:], words[8])):
            assert (half.max() > 100) == (color == "red") and (half.min() < -100) == (color == "blue")
    single = CaptionedShapes(3, num_shapes=1, colors=["red", "blue"])
    info = single.get_data_info(1)
    assert single.metainfo["classes"][info["gt_label"]] in info["gt_caption"][0]
    before = single.metainfo["classes"]
    single.remap_classes(before[::-1])
    assert single.get_data_info(1)["gt_label"] == len(before) - 1 - info["gt_label"]
    with pytest.raises(ValueError, match="unknown name 'pink'"):
        CaptionedShapes(colors=["pink"])


def test_captions_are_drawn_above_the_image() -> None:
    sample = CaptionedShapes(1, pipeline=[PackInputs()])[0]
    image = sample["inputs"].permute(1, 2, 0).numpy()
    assert (
        draw_sample(image, sample["data_samples"], {}).shape[0]
        > draw_sample(image, sample["data_samples"], {}, False).shape[0]
    )


def test_damaged_and_missing_images_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("path,caption\na.png,a tree\nmissing.png,a tree\n")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    pipeline = [dict(type="LoadImageFromFile"), dict(type="RandomCaption"), dict(type="PackInputs")]
    dataset = ImageTextDataset("a.csv", data_root=tmp_path, pipeline=pipeline)
    assert dataset[0]["data_samples"].gt_caption == "a tree"
    with pytest.raises(FileNotFoundError, match="missing.png"):
        dataset[1]
    loader = dict(batch_size=1, dataset=dict(type="ImageTextDataset", ann_fil="a.csv", pipeline=pipeline))
    errors = check(dict(model=dict(type="LeNet"), train_dataloader=loader, train_cfg=dict(max_epochs=1)))
    assert "train_dataloader.dataset.ann_fil" in [error.path for error in errors]
