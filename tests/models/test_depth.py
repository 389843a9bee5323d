"""Depth estimation: files, loss, metric and drawing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trainwright.datasets import DepthDataset, Shapes
from trainwright.engine.errors import DataError, MissingFileError
from trainwright.engine.structures.pixel_data import PixelData
from trainwright.engine.structures.sample import DataSample
from trainwright.engine.visualization.samples import draw_sample
from trainwright.models import DepthMetric, SiLogLoss

PIPELINE = [dict(type="LoadImageFromFile"), dict(type="LoadDepthAnnotation", depth_rescale_factor=1e-3)]


def write_files(root: Path, size: tuple[int, int] = (4, 6)) -> None:
    for folder in ("images", "annotations"):
        (root / folder).mkdir(parents=True)
    Image.new("RGB", (6, 4), "red").save(root / "images/1.jpg")
    depths = np.arange(size[0] * size[1], dtype=np.uint16).reshape(size) * 1000
    Image.fromarray(depths).save(root / "annotations/1.png")


def test_depth_maps_of_files_are_flipped_with_their_images(tmp_path: Path) -> None:
    write_files(tmp_path)
    flip = dict(type="RandomHorizontalFlip", p=1.0)
    dataset = DepthDataset(data_root=tmp_path, pipeline=[*PIPELINE, flip, dict(type="PackInputs")])
    sample = dataset[0]["data_samples"]
    assert sample.gt_depth_map.data.dtype == torch.float32
    assert torch.equal(sample.gt_depth_map.data, torch.arange(24.0).view(1, 4, 6).flip(-1))
    without = DepthDataset(data_root=tmp_path, data_prefix=dict(img_path="images"), pipeline=PIPELINE)
    assert "gt_depth_map" not in without[0]


def test_wrong_files_are_named(tmp_path: Path) -> None:
    write_files(tmp_path, (3, 6))
    with pytest.raises(DataError, match=r"1\.png has size \(3, 6\), but the image .*1\.jpg has size \(4, 6\)"):
        DepthDataset(data_root=tmp_path, pipeline=PIPELINE)[0]
    Image.new("RGB", (6, 4)).save(tmp_path / "annotations/1.png")
    with pytest.raises(DataError, match="3 values per pixel"):
        DepthDataset(data_root=tmp_path, pipeline=PIPELINE)[0]
    (tmp_path / "annotations/1.png").unlink()
    with pytest.raises(MissingFileError):
        DepthDataset(data_root=tmp_path, pipeline=PIPELINE)[0]
    with pytest.raises(MissingFileError, match="image folder"):
        DepthDataset(data_root=tmp_path / "elsewhere")[0]


def samples(pred: torch.Tensor, truth: torch.Tensor) -> list[DataSample]:
    return [
        DataSample(gt_depth_map=PixelData(data=one[None]), pred_depth_map=PixelData(data=other[None]))
        for other, one in zip(pred, truth)
    ]


def test_errors_are_those_of_torchmetrics() -> None:
    reference = pytest.importorskip("torchmetrics.functional")
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(3, 8, 9, generator=generator) * 9 + 0.5
    pred = (truth * torch.rand(3, 8, 9, generator=generator).mul(0.8).add(0.6)).double()
    truth[0, :4] = 0  # unknown
    truth[2] = 0
    metric = DepthMetric()
    metric.process(None, samples(pred, truth.double()))
    found = metric.evaluate(3)
    expected = []
    for one, other in zip(pred[:2], truth[:2].double()):
        p, t = one[other > 0], other[other > 0]
        squared = reference.mean_squared_error(p.log(), t.log())
        expected.append({
            "abs_rel": reference.mean_absolute_percentage_error(p, t),
            "rmse": reference.mean_squared_error(p, t, squared=False),
            "rmse_log": squared.sqrt(),
            "silog": 100 * (squared - (p.log() - t.log()).mean() ** 2).sqrt(),
            "log10": reference.mean_absolute_error(p.log10(), t.log10()),
            "sq_rel": ((p - t) ** 2 / t).mean(),
            "d1": (torch.maximum(p / t, t / p) < 1.25).double().mean(),
        })  # fmt: skip
    for name in expected[0]:
        assert found[f"depth/{name}"] == pytest.approx(float(sum(row[name] for row in expected)) / 2, rel=1e-5), name
    assert found["depth/d1"] < found["depth/d2"] <= found["depth/d3"] <= 1
    limited = DepthMetric("rmse", min_depth_eval=1, max_depth_eval=5)
    limited.process(None, samples(pred, truth.double()))
    assert limited.evaluate(3)["depth/rmse"] != found["depth/rmse"]
    assert DepthMetric.higher_is_better["d1"] and not DepthMetric.higher_is_better["rmse"]
    with pytest.raises(ValueError, match="did you mean 'abs_rel'"):
        DepthMetric("absrel")
    with pytest.raises(ValueError, match="no pred_depth_map"):
        metric.process(None, [DataSample(gt_depth_map=PixelData(data=truth[:1]))])


def test_the_loss_forgives_scale_and_unknown_depths() -> None:
    target = torch.tensor([[[1.0, 2.0, 4.0, 0.0]]])
    assert float(SiLogLoss(lambd=1.0)(3 * target, target)) == pytest.approx(0, abs=1e-3)
    loss = SiLogLoss(lambd=0.0, loss_weight=2.0)(torch.tensor([[[2.0, 2.0, 4.0, 9.0]]]), target)
    assert float(loss) == pytest.approx(2 * (np.log(2) ** 2 / 3) ** 0.5)
    pred = torch.ones(1, 1, 4, requires_grad=True)
    SiLogLoss()(pred, torch.zeros(1, 1, 4)).backward()
    assert pred.grad is not None and pred.grad.eq(0).all()


def test_depths_are_drawn_on_one_scale() -> None:
    depths = torch.tensor([[[1.0, 2.0], [0.0, 3.0]]])
    sample = DataSample(gt_depth_map=PixelData(data=depths), pred_depth_map=PixelData(data=depths + 1))
    picture = draw_sample(np.zeros((224, 224, 3), np.uint8), sample, {})
    left, right = picture[-200:, :224], picture[-200:, -224:]
    assert left[0, 0].tolist() == [240, 249, 33] and left[-1, -1].tolist() == [13, 8, 135]
    assert left[-1, 0].tolist() == [0, 0, 0] and left[0, -1].tolist() == right[0, 0].tolist() == [204, 71, 120]


def test_drawn_depths_are_those_of_the_sizes() -> None:
    info = Shapes(1, 32, annotations=("gt_depth_map", "gt_seg_map"), seed=2)[0]
    depths, background = info["gt_depth_map"], info["gt_seg_map"] == 0
    assert depths.dtype == torch.float32 and depths[background].eq(10).all() and depths[~background].lt(9).all()
    assert "gt_depth_map" not in Shapes(1, 32)[0]
