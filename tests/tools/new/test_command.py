"""``trainwright new``: data of every format becomes a config without mistakes."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from trainwright.engine.checking import check
from trainwright.engine.config.config import Config
from trainwright.engine.registry import DATASETS
from trainwright.engine.run.runner import Runner
from trainwright.tools.cli import main
from trainwright.tools.new.data import Sample, make_split

BOXES = {"circle": (4, 4, 16, 14), "square": (20, 6, 34, 18)}
SIZE = (40, 24)


def draw(path: Path, *kinds: str, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", SIZE, (30, 60, 30))
    for kind in kinds:
        figure = ImageDraw.Draw(image)
        (figure.ellipse if kind == "circle" else figure.rectangle)(BOXES[kind], fill=(200, 100, 50))
    image.convert(mode).save(path)
    return path


def kinds_of(index: int) -> tuple[str, ...]:
    return tuple(BOXES)[: 1 + index // 3] if index % 2 else tuple(BOXES)[1:]


def class_folders(root: Path) -> None:
    for index in range(6):
        kind = tuple(BOXES)[index % 2]
        draw(root / kind / f"{index}.png", kind, mode="L")


def table(root: Path) -> None:
    class_folders(root / "pictures")
    lines = [f"{index},{tuple(BOXES)[index % 2]}\n" for index in range(6)]
    (root / "list.csv").write_text("id,species\n" + "".join(lines))


def several_labels(root: Path) -> None:
    rows = []
    for index in range(6):
        draw(root / f"{index}.png", *kinds_of(index))
        rows.append(f"{index}.png,{','.join(str(int(kind in kinds_of(index))) for kind in BOXES)}\n")
    (root / "list.csv").write_text("image,circle,square\n" + "".join(rows))


def yolo(root: Path, polygons: bool = False) -> None:
    for index in range(6):
        draw(root / f"images/{index}.png", *kinds_of(index))
        lines = []
        for kind in kinds_of(index):
            left, top, right, bottom = np.array(BOXES[kind]) / (*SIZE, *SIZE)
            values = (left, top, right, top, right, bottom, left, bottom)
            if not polygons:
                values = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
            lines.append(f"{tuple(BOXES).index(kind)} {' '.join(map(str, values))}\n")
        (root / "labels").mkdir(exist_ok=True)
        (root / f"labels/{index}.txt").write_text("".join(lines))
    (root / "data.yaml").write_text("train: images\nnames: [circle, square]\n")


def yolo_poses(root: Path) -> None:
    for index in range(6):
        draw(root / f"images/{index}.png", "square")
        (root / "labels").mkdir(exist_ok=True)
        (root / f"labels/{index}.txt").write_text("0 0.675 0.5 0.35 0.5 0.5 0.25 0.85 0.25\n")
    names = "train: images\nnames: [square]\nkpt_shape: [2, 2]\nflip_idx: [1, 0]\n"
    (root / "data.yaml").write_text(names)


def voc(root: Path, first: int = 0) -> None:
    for index in range(6):
        draw(root / f"JPEGImages/{index}.png", *kinds_of(index))
        objects = "".join(
            f"<object><name>{kind}</name><bndbox><xmin>{left + first}</xmin><ymin>{top + first}</ymin>"
            f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
            for kind in kinds_of(index)
            for left, top, right, bottom in [BOXES[kind]]
        )
        (root / "Annotations").mkdir(exist_ok=True)
        text = f"<annotation><filename>{index}.png</filename>{objects}</annotation>"
        (root / f"Annotations/{index}.xml").write_text(text)


def labelme(root: Path) -> None:
    for index in range(6):
        draw(root / f"{index}.png", *kinds_of(index))
        shapes = [
            dict(label=kind, shape_type="rectangle", points=[BOXES[kind][:2], BOXES[kind][2:]])
            for kind in kinds_of(index)
        ]
        content = dict(shapes=shapes, imagePath=f"{index}.png", imageData=None, imageHeight=SIZE[1], imageWidth=SIZE[0])
        (root / f"{index}.json").write_text(json.dumps(content))


def coco(root: Path) -> None:
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": 5 + number, "name": kind} for number, kind in enumerate(BOXES)]
    for index in range(6):
        draw(root / f"photos/{index}.png", *kinds_of(index))
        content["images"].append(dict(id=index, file_name=f"{index}.png", width=SIZE[0], height=SIZE[1]))
        for kind in kinds_of(index):
            left, top, right, bottom = BOXES[kind]
            box = dict(bbox=[left, top, right - left, bottom - top], area=1, iscrowd=0)
            ids = dict(id=len(content["annotations"]), image_id=index, category_id=5 + tuple(BOXES).index(kind))
            content["annotations"].append({**box, **ids})
    (root / "annotations.json").write_text(json.dumps(content))


def masks(root: Path) -> None:
    for index in range(6):
        draw(root / f"images/{index}.jpg", *kinds_of(index))
        mask = Image.new("L", SIZE)
        ImageDraw.Draw(mask).rectangle(BOXES["square"], fill=255)
        (root / "masks").mkdir(exist_ok=True)
        mask.save(root / f"masks/{index}.png")


def videos(root: Path) -> None:
    av = pytest.importorskip("av")
    for index in range(4):
        path = root / ("left", "right")[index % 2] / f"{index}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=5)
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
            for step in range(8):
                pixels = np.zeros((32, 32, 3), np.uint8)
                pixels[8:16, 3 * step : 3 * step + 6] = 200
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())


FORMATS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "class folders": (class_folders, "classification", "CustomDataset"),
    "table": (table, "classification", "CustomDataset"),
    "several labels": (several_labels, "multilabel", "MultiLabelDataset"),
    "YOLO boxes": (yolo, "detection", "YOLODataset"),
    "YOLO polygons": (lambda root: yolo(root, polygons=True), "instance segmentation", "YOLODataset"),
    "YOLO poses": (yolo_poses, "pose", "YOLOPoseDataset"),
    "VOC": (voc, "detection", "VOCDataset"),
    "LabelMe": (labelme, "instance segmentation", "LabelMeDataset"),
    "COCO": (coco, "detection", "CocoDataset"),
    "masks": (masks, "segmentation", "BaseSegDataset"),
    "videos": (videos, "video", "VideoDataset"),
}


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "no_weights"))


QUICK = ("class folders", "YOLO boxes", "masks")


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(one, marks=pytest.mark.long) for one in FORMATS if one not in QUICK)]
)
def test_a_config_for_every_format(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write, task, dataset = FORMATS[name]
    write(tmp_path / "data")
    assert main(["new", "data", "-o", "my.py"]) == 0
    printed = capsys.readouterr().out
    assert f", for {task}" in printed.splitlines()[0]
    total = 4 if name == "videos" else 6
    assert f"samples: {total - 2} train, 2 val" in printed or f"samples: {total - 1} train, 1 val" in printed
    cfg = Config.fromfile("my.py")
    assert cfg.train_dataloader.dataset.type == dataset
    text = Path("my.py").read_text()
    assert 40 <= len(text.splitlines()) <= 100
    assert max(map(len, text.splitlines())) <= 120
    runner = _train_on_one_batch(cfg)
    seen = [set(_paths(loader.dataset)) for loader in (runner.train_dataloader, runner.val_dataloader)]
    assert not seen[0] & seen[1]
    assert len(seen[0] | seen[1]) == total


def _train_on_one_batch(cfg: Config) -> Runner:
    """Return the runner of a config that has no mistakes and whose losses are finite."""
    assert check(cfg) == []
    runner = Runner.from_cfg({**cfg.to_dict(), "work_dir": "runs", "visualizer": dict(vis_backends=[])})
    with torch.no_grad():
        batch = runner.model.data_preprocessor(next(iter(runner.train_dataloader)), True)
        losses = runner.model(batch["inputs"], batch["data_samples"], mode="loss")
    assert all(torch.isfinite(torch.as_tensor(loss)).all() for loss in losses.values())
    return runner


def _paths(dataset: Any) -> list[str]:
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    return [info.get("img_path") or info["filename"] for info in infos]


def test_a_split_is_stratified_and_does_not_depend_on_the_order() -> None:
    samples = [Sample(f"{index}.png", ("rare" if index < 5 else "common",)) for index in range(55)]
    train, val = make_split(samples)
    assert [sum(sample.labels == (label,) for sample in val) for label in ("rare", "common")] == [1, 10]
    assert len(train) == 44
    again = make_split(samples[::-1])[1]
    assert {sample.path for sample in again} == {sample.path for sample in val}


def test_own_splits_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "valid", "test"):
        class_folders(tmp_path / "data" / split)
    draw(tmp_path / "data/valid/triangle/1.png", "square")
    assert main(["new", "data", "-o", "my.py"]) == 1
    printed = capsys.readouterr().out
    assert "samples: 6 train, 7 val, 6 test\n" in printed
    assert "the class 'triangle' occurs in val, but not in train" in printed
    cfg = Config.fromfile("my.py")
    assert cfg.val_dataloader.dataset.data_prefix.img_path == "data/valid"
    assert cfg.test_dataloader.dataset.data_prefix.img_path == "data/test"
    assert not Path("my_split").exists()


def test_splits_by_folders_are_kept_whatever_the_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As in exports of Roboflow: XML files beside the images, in train, valid and test."""
    voc(tmp_path / "all")
    for split, numbers in (("train", (0, 1, 2)), ("valid", (3, 4)), ("test", (5,))):
        (tmp_path / "data" / split).mkdir(parents=True)
        for number in numbers:
            for file in (f"JPEGImages/{number}.png", f"Annotations/{number}.xml"):
                (tmp_path / "all" / file).rename(tmp_path / "data" / split / Path(file).name)
    assert main(["new", "data", "-o", "my.py"]) == 0
    assert "samples: 3 train, 2 val, 1 test\n" in capsys.readouterr().out
    assert Path("my_split/val.txt").read_text() == "valid/3\nvalid/4\n"
    assert check(Config.fromfile("my.py")) == []


@pytest.mark.parametrize("write", [coco, masks])
def test_a_test_split_stays_apart(write: Callable[[Path], None], tmp_path: Path) -> None:
    """It comes before ``train`` in the alphabet, and its files have the same names."""
    write(tmp_path / "data/train")
    write(tmp_path / "data/test")
    assert main(["new", "data", "-o", "my.py"]) == 0
    cfg = Config.fromfile("my.py")
    seen = {}
    for split in ("train", "val", "test"):
        dataset = DATASETS.build({**cfg[f"{split}_dataloader"].dataset.to_dict(), "pipeline": []})
        seen[split] = _paths(dataset)
    assert {path.split("/")[1] for path in seen["train"] + seen["val"]} == {"train"}
    assert {path.split("/")[1] for path in seen["test"]} == {"test"}
    assert len(set(seen["train"] + seen["val"])) == len(seen["test"]) == 6


def test_a_split_column_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The only column beside it has the labels, whatever its name."""
    class_folders(tmp_path / "data")
    rows = [f"{index},{tuple(BOXES)[index % 2]},{('train', 'train', 'val')[index // 2]}\n" for index in range(6)]
    (tmp_path / "data/list.csv").write_text("id,kind of figure,split\n" + "".join(rows))
    assert main(["new", "data/list.csv", "-o", "my.py"]) == 0
    printed = capsys.readouterr().out
    assert "classes (2): circle 3, square 3" in printed
    assert "samples: 4 train, 2 val\n" in printed
    assert Path("my_split/val.csv").read_text().count("\n") == 3
    assert check(Config.fromfile("my.py")) == []


def test_files_in_two_splits_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    yolo(tmp_path / "data")
    (tmp_path / "data/data.yaml").write_text("path: /gone\ntrain: images\nval: images\nnames: [circle, square]\n")
    assert main(["new", "data", "-o", "my.py"]) == 1
    printed = capsys.readouterr().out
    assert "problem: 6 files are in train and in val, such as data/images/0.png" in printed
    assert "note: data/data.yaml: path: /gone not found" in printed


def test_images_of_voc_that_were_converted_or_renamed_are_found(tmp_path: Path) -> None:
    voc(tmp_path / "data")
    for file in list((tmp_path / "data/Annotations").iterdir()):
        file.write_text(file.read_text().replace(".png", ".tif"))
        file.rename(file.with_stem(f"größte {file.stem}"))  # " 1" at the end of a line may also be a column of VOC
        image = tmp_path / f"data/JPEGImages/{file.stem}.png"
        image.rename(image.with_stem(f"größte {image.stem}"))
    assert main(["new", "data", "-o", "my.py"]) == 0
    dataset = Runner.from_cfg({**Config.fromfile("my.py").to_dict(), "work_dir": "runs"}).train_dataloader.dataset
    assert all(Path(path).is_file() for path in _paths(dataset))


def test_bad_annotations_of_coco_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco(tmp_path / "data")
    content = json.loads(Path("data/annotations.json").read_text())
    content["annotations"][0]["category_id"] = 99
    content["annotations"][1]["bbox"][2] = float("nan")
    content["images"][5]["file_name"] = "gone.png"
    content["images"][4] = None
    Path("data/annotations.json").write_text(json.dumps(content))
    assert main(["new", "data", "-o", "my.py"]) == 1
    printed = capsys.readouterr().out
    for problem in (
        "annotation 0 (data/photos/0.png): category_id: no category has the id 99", "is not finite: [4, 4, nan, 10]",
        "images[4]: must be a dict, got None", "image 5: data/photos/gone.png not found",
    ):  # fmt: skip
        assert problem in printed
    assert "samples: 3 train, 1 val" in printed
    assert "bad_annotations" in printed


def test_images_of_other_data_are_not_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco(tmp_path / "one")
    coco(tmp_path / "two")
    shutil.rmtree(tmp_path / "one/photos")
    assert main(["new", "one", "-o", "my.py"]) == 2
    assert "none of the 6 annotated images was found" in capsys.readouterr().err


def test_masks_are_counted_and_compared_with_their_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks(tmp_path / "data")
    file = tmp_path / "data/masks/0.png"
    Image.new("L", (SIZE[0] // 2, SIZE[1]), 3).save(file)
    assert main(["new", "data", "-o", "my.py"]) == 1
    printed = capsys.readouterr().out
    assert "classes (2): background 5, foreground 5" in printed
    assert "problem: data/masks/0.png: the mask has the size (24, 20) (height, width)" in printed
    assert "samples: 4 train, 1 val" in printed
    for path in (tmp_path / "data/masks").iterdir():
        Image.effect_noise(SIZE, 60).convert("RGB").save(path)
    assert main(["new", "data", "-o", "my.py", "--force"]) == 2
    assert "different colors, so they are not colors of classes" in capsys.readouterr().err


def test_errors_in_likelier_data_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class_folders(tmp_path / "data")
    (tmp_path / "data/annotations.json").write_text('{"images": [], "annotations": [')
    assert main(["new", "data", "-o", "my.py"]) == 0
    assert "left out: data/annotations.json is damaged or not in a supported format" in capsys.readouterr().out
    assert main(["new", "detection", "data", "-o", "other.py"]) == 2
    assert "data/annotations.json is damaged or not in a supported format" in capsys.readouterr().err


def test_a_folder_in_a_folder_is_entered(tmp_path: Path) -> None:
    class_folders(tmp_path / "data/archive")
    assert main(["new", "data", "-o", "my.py"]) == 0
    assert "data/archive/circle" in Path("my_split/train.csv").read_text()


def test_damaged_and_bad_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    yolo(tmp_path / "data")
    Image.effect_noise(SIZE, 60).save(tmp_path / "data/images/0.png")
    (tmp_path / "data/images/0.png").write_bytes((tmp_path / "data/images/0.png").read_bytes()[:300])
    (tmp_path / "data/labels/1.txt").write_text("9 0.5 0.5 0.1 0.1\n")
    assert main(["new", "data", "-o", "my.py"]) == 1
    printed = capsys.readouterr().out
    assert "problem: data/images/0.png: " in printed
    assert "problem: data/labels/1.txt:1 (data/images/1.png): unknown class 9" in printed
    assert "0.png" not in Path("my_split/train.txt").read_text() + Path("my_split/val.txt").read_text()


@pytest.mark.parametrize(("kind", "first"), [("square", 0), ("car", 0), ("car", 1)])
def test_boxes_of_voc_begin_where_the_tool_counts_from(
    kind: str, first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only Pascal VOC itself counts pixels from 1, and then no box begins at 0."""
    monkeypatch.setattr(f"{__name__}.BOXES", {kind: (0, 4, 12, 14)})
    monkeypatch.setattr(f"{__name__}.kinds_of", lambda index: tuple(BOXES))
    voc(tmp_path / "data", first)
    assert main(["new", "data", "-o", "my.py"]) == 0
    cfg = Config.fromfile("my.py").to_dict()
    assert cfg["train_dataloader"]["dataset"]["one_based"] is (first == 1)
    dataset = Runner.from_cfg({**cfg, "work_dir": "runs"}).train_dataloader.dataset
    assert dataset.get_data_info(0)["instances"][0]["bbox"] == [0, 4, 12, 14]


def test_damaged_videos_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    videos(tmp_path / "data")
    damaged = tmp_path / "data/left/2.mp4"
    damaged.write_bytes(damaged.read_bytes()[:-200])
    assert main(["new", "data", "-o", "my.py"]) == 1
    assert "problem: data/left/2.mp4: damaged: " in capsys.readouterr().out
    assert "2.mp4" not in Path("my_split/train.csv").read_text() + Path("my_split/val.csv").read_text()


def test_files_are_only_overwritten_by_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class_folders(tmp_path / "data")
    Path("my.py").write_text("mine = 1\n")
    assert main(["new", "data", "-o", "my.py"]) == 2
    assert "--force" in capsys.readouterr().err
    assert Path("my.py").read_text() == "mine = 1\n"
    assert main(["new", "data", "-o", "my.py", "--force"]) == 0
    assert "CustomDataset" in Path("my.py").read_text()


def test_what_does_not_fit_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class_folders(tmp_path / "data")
    Path("list.csv").touch()
    for arguments, message in (
        (["detektion", "data"], "did you mean 'detection'"),
        (["detection", "data"], "no data for detection, but this: images in one folder per class"),
        (["nowhere"], "no folder or file 'nowhere'"),
        (["data", "-o", "list.csv/my.py"], "list.csv"),
        (["data", "--weights", "resnet5O"], "did you mean 'resnet50'"),
    ):
        assert main(["new", "-o", "my.py", *arguments]) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.docx").write_text("")
    assert main(["new", "other", "-o", "my.py"]) == 2
    assert "1 .docx" in capsys.readouterr().err


def test_weights_at_hand_are_fine_tuned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from torchvision.models import resnet18

    class_folders(tmp_path / "data")
    cache = tmp_path / "no_weights/hub/checkpoints"
    cache.mkdir(parents=True)
    torch.save(resnet18().state_dict(), cache / "resnet18-f37072fd.pth")
    assert main(["new", "data", "-o", "cached.py"]) == 0
    assert "fine-tunes resnet18" in capsys.readouterr().out
    file = str(cache / "resnet18-f37072fd.pth")
    assert main(["new", "data", "-o", "file.py", "--weights", file]) == 0
    assert main(["new", "data", "-o", "named.py", "--weights", "resnet34"]) == 0
    assert "are downloaded when the training starts" in capsys.readouterr().out
    for name, weights in (("cached", "IMAGENET1K_V1"), ("file", file), ("named", "IMAGENET1K_V1")):
        cfg = Config.fromfile(f"{name}.py")
        assert check(cfg) == []
        assert cfg.model.backbone.weights == weights
        cfg.model.backbone.weights = None
        (mistake,) = check(cfg)
        assert mistake.path == "optim_wrapper.paramwise_cfg.needs_pretrained"


@pytest.mark.parametrize("name", ["classification/vit_b_16_folder", "video/swin3d_t_finetune"])
def test_fine_tuning_without_weights_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", name]) == 0
    assert main(["check", name, "--cfg-options", "model.backbone.weights=None"]) == 2
    assert "loads no pretrained weights" in capsys.readouterr().err
    Path("a.pth").touch()
    assert main(["check", name, "--cfg-options", "model.backbone.weights=None", "load_from=a.pth"]) == 0


@pytest.mark.long
@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("Classification", "class folders"), ("Multi-label classification", "several labels"), ("Detection", "COCO"),
        ("Instance segmentation", "YOLO polygons"), ("Pose", "YOLO poses"), ("Semantic segmentation", "masks"),
        ("Video classification", "videos"),
    ],
)  # fmt: skip
def test_the_configs_in_the_docs_work(task: str, name: str, tmp_path: Path) -> None:
    FORMATS[name][0](tmp_path / "photos")
    assert main(["new", "photos", "-o", "my.py", "--weights", "none"]) == 0
    page = (Path(__file__).parents[3] / "docs/your-configs.md").read_text()
    (block,) = re.findall(rf"^## {task}$.*?```python\n(.*?)```", page, re.DOTALL | re.MULTILINE)
    assert block.splitlines()[5:8] == Path("my.py").read_text().splitlines()[5:8]
    Path("my.py").write_text(block.replace("num_workers=2", "num_workers=0").replace("_workers=True", "_workers=False"))
    runner = _train_on_one_batch(Config.fromfile("my.py"))
    assert len(runner.train_dataloader.dataset) + len(runner.val_dataloader.dataset) == (4 if name == "videos" else 6)
