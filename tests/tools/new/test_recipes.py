"""``trainwright new``: the recipes learn, as written, on a few hundred small images that other code has drawn."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from trainwright.tools.cli import main

SIZE = 96
CLASSES = ("disk", "square")


def scenes(root: Path, rng: np.random.Generator) -> Iterator[tuple[int, Image.Image, list[tuple[int, np.ndarray]]]]:
    """Save images of one or two figures on noise; yield the number, the mask, and the class and box of each figure."""
    (root / "images").mkdir(parents=True)
    for index in range(200):
        image = Image.fromarray(rng.integers(20, 110, (SIZE, SIZE, 3), np.uint8))
        mask = Image.new("L", (SIZE, SIZE))
        figures = []
        for left in rng.permutation([4, 50])[: rng.integers(1, 3)]:
            side = int(rng.integers(22, 40))
            corner = np.array([left, rng.integers(4, SIZE - side - 4)])
            kind, box = int(rng.integers(2)), np.concatenate([corner, corner + side])
            for canvas, fill in ((image, tuple(rng.integers(140, 256, 3).tolist())), (mask, 255)):
                drawn = ImageDraw.Draw(canvas)
                (drawn.rectangle if kind else drawn.ellipse)(box.tolist(), fill=fill)
            figures.append((kind, box))
        image.save(root / f"images/{index}.png")
        yield index, mask, figures


def yolo_boxes(root: Path, rng: np.random.Generator) -> None:
    (root / "labels").mkdir(parents=True)
    for index, _, figures in scenes(root, rng):
        values = [(kind, *((box[:2] + box[2:]) / 2 / SIZE), *((box[2:] - box[:2]) / SIZE)) for kind, box in figures]
        (root / f"labels/{index}.txt").write_text("".join(f"{' '.join(map(str, one))}\n" for one in values))
    (root / "data.yaml").write_text("train: images\nnames: [disk, square]\n")


def masks(root: Path, rng: np.random.Generator) -> None:
    (root / "masks").mkdir(parents=True)
    for index, mask, _ in scenes(root, rng):
        mask.save(root / f"masks/{index}.png")


def sixteen_bits(root: Path, rng: np.random.Generator) -> None:
    """Write textures of three kinds with values around 1500, which would be black or white in 8 bits."""
    for index in range(150):
        noise = rng.normal(0, 200, (64, 64))
        kind = ("fine", "vertical", "horizontal")[index % 3]
        if kind != "fine":
            noise = np.cumsum(noise, axis=int(kind == "horizontal")) / 4
        (root / kind).mkdir(parents=True, exist_ok=True)
        pixels = np.clip(1500 + noise, 0, 4095).astype(np.uint16)
        Image.fromarray(pixels).save(root / kind / f"{index}.tif")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "metric", "least"),
    [
        (yolo_boxes, "coco/bbox_mAP_50", 0.8),
        (masks, "seg/mIoU", 85.0),  # all background: about 42
        (sixteen_bits, "accuracy/top1", 85.0),  # chance: 33
    ],
)
def test_a_recipe_learns(
    write: Callable[[Path, np.random.Generator], None],
    metric: str,
    least: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data", np.random.default_rng(0))
    assert main(["new", "data", "-o", "my.py", "--weights", "none"]) == 0
    assert main(["check", "--data", "my.py"]) == 0
    assert main(["train", "my.py", "--work-dir", "run"]) == 0
    (scalars,) = Path("run").rglob("scalars.json")
    scores = [entry[metric] for line in scalars.read_text().splitlines() if metric in (entry := json.loads(line))]
    assert max(scores) >= least, scores
