"""Scenes of objects of distinct colors, and models that find them exactly from the pixels."""

import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn

from trainwright.engine import Inferencer, InstanceData, TiledInferencer
from trainwright.engine.inference.tiled import merge_instances
from trainwright.engine.inference.tiles import Tile, tiles_of
from trainwright.engine.registry import MODELS
from trainwright.engine.structures.masks import decode_mask
from trainwright.engine.structures.pixel_data import PixelData
from trainwright.models import BaseModel
from trainwright.tools.cli import main


@MODELS.register_module()
class ColorDetector(BaseModel):
    """A detector for which every color is an object; the class is the red channel modulo 3, the score the green one."""

    def __init__(self, jitter=0.0, with_masks=True):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.jitter, self.with_masks = jitter, with_masks
        self.sizes = []

    def forward(self, inputs, data_samples=None, mode="predict"):
        rng = np.random.default_rng(0)
        for image, sample in zip(inputs, data_samples):
            pixels = image.numpy().astype(int)
            self.sizes.append((len(inputs), *pixels.shape[1:]))
            codes = (pixels[0] << 16) + (pixels[1] << 8) + pixels[2]
            masks, boxes, colors = [], [], []
            for code in np.unique(codes[codes > 0]).tolist():
                mask = codes == code
                rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)
                if self.jitter and min(box[2:] - box[:2]) < 4:  # too thin to be recognized
                    continue
                masks.append(mask)
                boxes.append(box + rng.uniform(-1, 1, 4) * self.jitter)
                colors.append([code >> 16, code >> 8 & 255])
            found = torch.tensor(np.array(boxes).reshape(-1, 4))
            colors = torch.tensor(colors, dtype=torch.int64).reshape(-1, 2)
            instances = InstanceData(bboxes=found.float(), labels=colors[:, 0] % 3, scores=colors[:, 1] / 255)
            instances.keypoints = (found[:, None, :2] + found[:, None, 2:]).float() / 2
            if self.with_masks:
                instances.masks = torch.tensor(np.array(masks).reshape(-1, *pixels.shape[1:]))
            sample.pred_instances = instances
            sample.pred_sem_seg = PixelData(sem_seg=torch.tensor((pixels[2:] > 128).astype(int)))
        return data_samples


def config(**options):
    steps = [dict(type="LoadImageFromFile"), dict(type="PackInputs")]
    return dict(model=dict(type="ColorDetector", **options), inference_pipeline=steps)


def inferencer(tile_size, overlap_ratio=0.2, merge_iou_thr=0.5, **options):
    return TiledInferencer(config(**options), tile_size=tile_size, overlap_ratio=overlap_ratio,
                           merge_iou_thr=merge_iou_thr, show_progress=False, device="cpu")  # fmt: skip


def scene(seed, size=(240, 330), number=30, longest=120, shortest=4):
    """Draw rectangles and ellipses of random sizes that do not touch; return the image and its objects by color."""
    rng = np.random.default_rng(seed)
    image, objects = Image.new("RGB", size[::-1]), {}
    taken = np.zeros(size, bool)
    draw = ImageDraw.Draw(image)
    for index in range(number):
        width, height = rng.integers(shortest, longest if rng.random() < 0.3 else 30, 2)
        left, top = (int(rng.integers(0, side - length)) for side, length in zip(size[::-1], (width, height)))
        around = np.s_[max(0, top - 2) : top + height + 2, max(0, left - 2) : left + width + 2]
        if taken[around].any():
            continue
        taken[around] = True
        color = (10 + index, 100 + 3 * index, int(rng.integers(0, 256)))
        shape = draw.rectangle if index % 2 else draw.ellipse
        shape([left, top, left + width - 1, top + height - 1], fill=color)
        objects[color] = [left, top, left + width, top + height]
    return np.array(image), objects


@pytest.mark.parametrize("seed", range(4))
def test_every_object_is_found_once(seed):
    image, objects = scene(seed)
    tile_size, overlap_ratio = [(64, 0.25), (50, 0.4), ((100, 60), 0.1), (128, 0.2)][seed % 4]
    found = inferencer(tile_size, overlap_ratio)(image, batch_size=3, return_datasamples=True)["predictions"][0]
    instances = found.pred_instances
    assert len(instances) == len(objects)
    assert instances.scores.tolist() == sorted(instances.scores.tolist(), reverse=True)
    for box, label, score, mask in zip(instances.bboxes, instances.labels, instances.scores, instances.masks):
        color = next(color for color in objects if color[1] == round(float(score) * 255))
        assert box.tolist() == objects[color] and label == color[0] % 3
        assert np.array_equal(decode_mask(mask, *mask["size"]) > 0, (image == color).all(-1))
    assert torch.equal(found.pred_sem_seg.sem_seg[0], torch.tensor(image[..., 2] > 128).long())
    assert found.ori_shape == (240, 330)


@pytest.mark.parametrize("seed", range(3))
def test_inexact_boxes_are_merged_too(seed):
    image, objects = scene(seed, shortest=12)
    instances = inferencer(64, 0.3, jitter=1.0, with_masks=False)(image)["predictions"][0]["pred_instances"]
    boxes = np.array(instances["bboxes"])
    for truth in objects.values():
        assert (np.abs(boxes - truth).max(1) <= 1.01).sum() == 1
    assert len(boxes) == len(objects)


def test_an_object_of_several_tiles_and_its_neighbors():
    image = np.zeros((300, 300, 3), np.uint8)
    image[20:280, 30:290] = (9, 200, 0)  # larger than a tile
    image[100:110, 100:110] = (12, 150, 0)  # of the same class, inside of it
    image[20:60, :30] = (15, 100, 0)  # of the same class, next to it
    found = inferencer(100)(image)["predictions"][0]["pred_instances"]
    assert found["bboxes"] == [[30, 20, 290, 280], [100, 100, 110, 110], [0, 20, 30, 60]]
    assert found["labels"] == [0, 0, 0] and found["keypoints"][1] == [[105, 105]]


def test_tiles_are_batched_and_images_smaller_than_a_tile_are_one():
    predictor = inferencer(64, 0.25, with_masks=False)
    predictor([np.zeros((64, 160, 3), np.uint8), np.zeros((20, 30, 3), np.uint8)], batch_size=2)
    assert predictor.model.sizes == [(2, 64, 64), (2, 64, 64), (1, 64, 64), (1, 20, 30)]
    whole = np.zeros((50, 60, 3), np.uint8)
    whole[5:20, 7:30] = 200
    plain = Inferencer(config(), show_progress=False, device="cpu")(whole)["predictions"]
    assert inferencer(64)(whole)["predictions"] == plain


def test_an_image_without_objects():
    found = inferencer(64)(np.zeros((100, 100, 3), np.uint8), return_datasamples=True)["predictions"][0]
    assert found.pred_instances.bboxes.shape == (0, 4) and len(found.pred_instances) == 0


def test_detections_of_one_tile_are_never_merged():
    tiles = tiles_of(100, 180, 100, 0.2)
    assert tiles == [Tile(0, 0, 100, 100), Tile(0, 80, 100, 100)]

    def found(*boxes):
        return InstanceData(bboxes=torch.tensor(boxes).float().view(-1, 4), labels=torch.zeros(len(boxes)).long(),
                            scores=torch.linspace(0.9, 0.8, len(boxes)))  # fmt: skip

    twins = [[83, 10, 97, 40], [84, 10, 96, 40]]
    assert len(merge_instances([found(*twins), found()], tiles, (100, 180), 0.5)) == 2
    assert len(merge_instances([found(*twins), found(*twins)], tiles, (100, 180), 0.5)) == 2
    sliver = [[80, 12, 84, 40]]  # of the object at the left, cut by the second tile
    merged = merge_instances([found([20, 10, 86, 42]), found(*sliver)], tiles, (100, 180), 0.5)
    assert merged.bboxes.tolist() == [[20, 10, 86, 42]]
    different = merge_instances([found([70, 10, 86, 42]), found([82, 60, 120, 90])], tiles, (100, 180), 0.5)
    assert len(different) == 2


def test_a_fragment_is_left_out_if_another_tile_shows_the_whole():
    tiles, size = tiles_of(100, 180, 100, 0.4), (100, 180)
    assert tiles == [Tile(0, 0, 100, 100), Tile(0, 60, 100, 100), Tile(0, 80, 100, 100)]

    def found(*boxes):  # (left, right, label)
        return InstanceData(bboxes=torch.tensor([[left, 10, right, 40] for left, right, _ in boxes]).float(),
                            labels=torch.tensor([label for *_, label in boxes]), scores=torch.ones(len(boxes)))  # fmt: skip

    fragments = found((85, 100, 1), (50, 100, 1), (20, 100, 1))  # the first one is complete in the second tile
    merged = merge_instances([fragments, found((85, 125, 0)), found((80, 125, 2))], tiles, size, 0.5)
    assert sorted(zip(merged.bboxes[:, 0].tolist(), merged.labels.tolist())) == [(20, 1), (50, 1), (85, 0)]
    at_the_border = found((150, 180, 1))  # of the image
    assert len(merge_instances([fragments[:0], fragments[:0], at_the_border], tiles, size, 0.5)) == 1


def test_a_stream_writes_each_picture_before_the_next_prediction(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.fromarray(scene(0, (130, 140), 5)[0]).save(tmp_path / folder / "same.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    inputs = [str(tmp_path / name) for name in ("broken.png", "a/same.png", "b/same.png")]
    for predictor in (inferencer(64), Inferencer(config(), show_progress=False, device="cpu")):
        out, errors = tmp_path / type(predictor).__name__, {}
        stream = predictor.stream(inputs, batch_size=1, errors=errors, out_dir=out)
        index, first = next(stream)
        assert index == 1 and list(errors) == [0] and [path.name for path in out.iterdir()] == ["same.png"]
        (index, second), *rest = stream
        assert index == 2 and not rest and {**second, "img_path": inputs[1]} == first
        assert sorted(path.name for path in out.iterdir()) == ["same.png", "same_00000002.png"]
        answer = predictor(inputs[1:], return_datasamples=True)["predictions"]
        assert [predictor.pred2dict(sample) for sample in answer] == [first, second]


def test_mistakes():
    for options in (dict(tile_size=0), dict(overlap_ratio=0.0), dict(merge_iou_thr=2)):
        with pytest.raises(ValueError, match="overlap_ratio"):
            TiledInferencer(config(), **options)

    class Classifier(BaseModel):
        def forward(self, inputs, data_samples=None, mode="predict"):
            return data_samples

    with pytest.raises(ValueError, match="only models that predict instances or classes of pixels"):
        TiledInferencer({**config(), "model": dict(type=Classifier)}, device="cpu")(np.zeros((9, 9, 3), np.uint8))


def test_predict_on_the_command_line(tmp_path, capsys):
    image, objects = scene(0)
    Image.fromarray(image).save(tmp_path / "large.png")
    cfg = {**config(), "inferencer_type": "Inferencer"}
    (tmp_path / "cfg.json").write_text(json.dumps(cfg))
    torch.save({"state_dict": ColorDetector().state_dict()}, tmp_path / "model.pth")
    arguments = ["predict", str(tmp_path / "cfg.json"), str(tmp_path / "model.pth"), str(tmp_path / "large.png"),
                 "--out-dir", str(tmp_path / "out"), "--device", "cpu", "--tile-size", "64"]  # fmt: skip
    assert main(arguments) == 0
    entry = json.loads((tmp_path / "out/predictions.json").read_text())[0]
    assert len(entry["pred_instances"]["bboxes"]) == len(objects)
    drawn = np.array(Image.open(tmp_path / "out/large.png"))
    assert drawn.shape == image.shape and (drawn != image).any()
    assert main([*arguments, "--tile-overlap", "1.5"]) == 2
    assert "--tile-overlap" in capsys.readouterr().err
    assert main([*arguments[:-2], "--tile-overlap", "0.3"]) == 2  # without --tile-size
    assert "--tile-overlap requires --tile-size" in capsys.readouterr().err
    (tmp_path / "cfg.json").write_text(json.dumps({**cfg, "inferencer_type": "VideoInferencer"}))
    assert main(arguments) == 2
    assert "inferencer_type: VideoInferencer does not predict in tiles" in capsys.readouterr().err


def test_an_interrupted_prediction_keeps_what_is_done(tmp_path, monkeypatch, capsys):
    (tmp_path / "images").mkdir()
    for index in range(4):
        Image.new("RGB", (20, 20), (9, 200, 0)).save(tmp_path / f"images/{index}.png")
    (tmp_path / "images/1.png").write_bytes(b"no image")
    (tmp_path / "cfg.json").write_text(json.dumps(config()))
    torch.save({"state_dict": ColorDetector().state_dict()}, tmp_path / "model.pth")
    forward, calls = ColorDetector.forward, []

    def interrupted(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return forward(self, *arguments, **options)

    monkeypatch.setattr(ColorDetector, "forward", interrupted)
    arguments = ["predict", str(tmp_path / "cfg.json"), str(tmp_path / "model.pth"), str(tmp_path / "images"),
                 "--out-dir", str(tmp_path / "out"), "--device", "cpu"]  # fmt: skip
    assert main(arguments) == 130
    entries = json.loads((tmp_path / "out/predictions.json").read_text())
    assert ["error" in entry for entry in entries] == [False, True, False]
    assert "Stopped after 3 of 4 inputs" in capsys.readouterr().err
