"""Drawing pixels, and writing to backends."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trainwright.engine.records.logger import MMLogger
from trainwright.engine.structures.instance_data import InstanceData
from trainwright.engine.structures.masks import decode_mask
from trainwright.engine.structures.pixel_data import PixelData
from trainwright.engine.structures.rle import decode_columns, encode_rle
from trainwright.engine.structures.sample import DataSample
from trainwright.engine.visualization import drawing, samples
from trainwright.engine.visualization import visualizer as visualizer_module
from trainwright.engine.visualization.backends.local import LocalVisBackend
from trainwright.engine.visualization.visualizer import Visualizer

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255)


def blank(height: int = 40, width: int = 60) -> np.ndarray:
    return np.full((height, width, 3), 255, dtype=np.uint8)


KEYPOINT = drawing.palette(1)[0]


def pixel(visualizer: Visualizer, x: int, y: int) -> tuple[int, ...]:
    return tuple(visualizer.get_image()[y, x].tolist())


def test_image() -> None:
    visualizer = Visualizer()
    with pytest.raises(ValueError, match="call set_image"):
        visualizer.get_image()
    gray = np.arange(6).reshape(2, 3)
    visualizer.set_image(gray)
    assert (visualizer.height, visualizer.width) == (2, 3)
    image = visualizer.get_image()
    assert image.dtype == np.uint8 and image.shape == (2, 3, 3) and (image == gray[..., None]).all()
    with pytest.raises(ValueError, match="not \\(2, 3, 4\\)"):
        visualizer.set_image(np.zeros((2, 3, 4)))


def test_drawing_leaves_the_given_image_alone() -> None:
    image = blank()
    Visualizer(image=image).draw_bboxes(torch.tensor([5, 5, 20, 20]), "r")
    assert (image == 255).all()


def test_points() -> None:
    visualizer = Visualizer(image=blank())
    positions = torch.tensor([[10, 10], [30, 20]])
    visualizer.draw_points(positions, colors=["r", (0, 0, 255)], sizes=np.array([36, 100]))
    assert pixel(visualizer, 10, 10) == RED and pixel(visualizer, 30, 20) == BLUE
    assert pixel(visualizer, 34, 20) == BLUE and pixel(visualizer, 14, 10) == WHITE
    for marker in ("s", "+", "x"):
        visualizer.draw_points(torch.tensor([50, 30]), "g", marker)
        assert pixel(visualizer, 50, 30) == GREEN
    with pytest.raises(ValueError, match="unknown marker '\\?'"):
        visualizer.draw_points(positions, marker="?")
    with pytest.raises(ValueError, match="colors, or 2, but got 3"):
        visualizer.draw_points(positions, colors=["r", "g", "b"])


def test_lines() -> None:
    visualizer = Visualizer(image=blank())
    visualizer.draw_lines(torch.tensor([[5, 50], [5, 50]]), torch.tensor([[10, 10], [30, 30]]), ["r", "b"])
    assert pixel(visualizer, 5, 10) == RED and pixel(visualizer, 27, 10) == RED and pixel(visualizer, 27, 30) == BLUE
    visualizer.set_image(blank())
    visualizer.draw_lines(torch.tensor([0, 59]), torch.tensor([20, 20]), "r", "--", 1)
    drawn = (visualizer.get_image()[20, :, 1] == 0).tolist()
    assert drawn[:8] == [True] * 8 and not any(drawn[10:12]) and drawn[15]
    with pytest.raises(ValueError, match="differ in shape"):
        visualizer.draw_lines(torch.zeros(1, 2), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="unknown line style '~'"):
        visualizer.draw_lines(torch.tensor([0, 59]), torch.tensor([20, 20]), line_styles="~")


def test_boxes_polygons_and_circles() -> None:
    visualizer = Visualizer(image=blank())
    result = (
        visualizer.draw_bboxes(torch.tensor([[5, 5, 20, 20], [40, 5, 50, 20]]), ["r", "b"], alpha=1.0, line_widths=1)
        .draw_polygons([torch.tensor([[5, 25], [20, 25], [20, 35]])], "none", face_colors="g", alpha=1.0)
        .draw_circles(torch.tensor([45, 30]), torch.tensor([6]), "none", face_colors=BLUE, alpha=0.5)
    )
    assert result is visualizer
    assert pixel(visualizer, 5, 12) == RED and pixel(visualizer, 12, 12) == WHITE and pixel(visualizer, 50, 12) == BLUE
    assert pixel(visualizer, 18, 28) == GREEN and pixel(visualizer, 7, 33) == WHITE
    assert pixel(visualizer, 45, 30) == pytest.approx((127, 127, 255), abs=1)
    assert pixel(visualizer, 53, 30) == WHITE
    with pytest.raises(ValueError, match=r"bboxes must be \(N, 4\)"):
        visualizer.draw_bboxes(torch.zeros(2, 3))


def test_texts() -> None:
    visualizer = Visualizer(image=blank(60, 100))
    frame = {"facecolor": "b", "alpha": 1.0, "pad": 3}
    visualizer.draw_texts("cat", torch.tensor([10, 10]), 20, "r", bboxes=frame)
    image = visualizer.get_image()
    assert (image == RED).all(-1)[10:30, 10:45].any()
    assert (image == BLUE).all(-1).sum() > 300
    assert (image[:, 60:] == 255).all()
    visualizer.set_image(blank(60, 100))
    visualizer.draw_texts(
        ["a", "b"],
        torch.tensor([[95, 55], [50, 30]]),
        12,
        ["r", "g"],
        ["bottom", "center"],
        ["right", "center"],
    )
    marks = (visualizer.get_image() != 255).any(-1)
    assert marks[40:56, 80:96].any() and marks[20:40, 40:60].any() and not marks[:, 97:].any()
    with pytest.raises(ValueError, match="unknown alignment 'above'"):
        visualizer.draw_texts("a", torch.tensor([1, 1]), vertical_alignments="above")


def test_binary_masks() -> None:
    visualizer = Visualizer(image=blank(4, 4))
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[0, 0], masks[1, 3] = True, True
    visualizer.draw_binary_masks(masks, ["r", (0, 0, 0)], [1.0, 0.6])
    assert pixel(visualizer, 2, 0) == RED and pixel(visualizer, 2, 3) == (102, 102, 102)
    assert pixel(visualizer, 2, 1) == WHITE
    with pytest.raises(ValueError, match=r"bool of \(N, 4, 4\), not int64"):
        visualizer.draw_binary_masks(torch.zeros(4, 4, dtype=torch.int64))


@pytest.mark.parametrize(
    ("color", "expected"),
    [("orange", (255, 165, 0)), ("#010203", (1, 2, 3)), ("k", (0, 0, 0)), ((9, 8, 7), (9, 8, 7))],
)
def test_colors(color: str | tuple[int, int, int], expected: tuple[int, int, int]) -> None:
    visualizer = Visualizer(image=blank()).draw_bboxes(torch.tensor([0, 0, 9, 9]), "none", face_colors=color, alpha=1.0)
    assert pixel(visualizer, 5, 5) == expected


@pytest.mark.parametrize("color", ["unknown", (0, 0), (0, 0, 256)])
def test_invalid_colors(color: str | tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="color"):
        Visualizer(image=blank()).draw_points(torch.tensor([1, 1]), color)  # type: ignore[arg-type]


def test_featmap() -> None:
    features = torch.zeros(6, 2, 3)
    features[1, 0, 0], features[4, 1, 2] = 6.0, 12.0
    heat = Visualizer.draw_featmap(features)
    assert heat.shape == (2, 3, 3) and heat.dtype == np.uint8
    assert heat[1, 2].tolist() == [128, 0, 0]  # the largest value is dark red, the smallest dark blue
    assert heat[1, 1].tolist() == [0, 0, 128]
    assert heat[0, 0].tolist() == [128, 255, 128]
    strongest = Visualizer.draw_featmap(features, channel_reduction="select_max")
    assert strongest[0, 0].tolist() == [0, 0, 128]
    grid = Visualizer.draw_featmap(features, channel_reduction=None, topk=2, arrangement=(1, 2))
    assert grid.shape == (2, 6, 3)
    assert grid[1, 2].tolist() == [128, 0, 0] and grid[0, 3].tolist() == [128, 0, 0]
    assert Visualizer.draw_featmap(features[:3], channel_reduction=None, topk=0).shape == (2, 3, 3)
    overlaid = Visualizer.draw_featmap(features, blank(4, 6), alpha=0.25)
    assert overlaid.shape == (4, 6, 3) and overlaid[0, 5].tolist() == [191, 191, 223]
    assert Visualizer.draw_featmap(features, resize_shape=(8, 9)).shape == (8, 9, 3)
    for arguments, message in (
        ({"channel_reduction": "mean"}, "squeeze_mean"),
        ({"channel_reduction": None, "topk": 0}, "6 channels"),
        ({"channel_reduction": None, "topk": 6, "arrangement": (1, 2)}, "do not fit"),
    ):
        with pytest.raises(ValueError, match=message):
            Visualizer.draw_featmap(features, **arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"not \(2, 3\)"):
        Visualizer.draw_featmap(features[0])


def test_backends(tmp_path: Path) -> None:
    configs = [
        {"type": "LocalVisBackend"},
        {"type": "LocalVisBackend", "name": "other", "save_dir": str(tmp_path / "b")},
    ]
    visualizer = Visualizer(vis_backends=configs, save_dir=str(tmp_path / "a"))
    assert isinstance(visualizer.get_backend("LocalVisBackend"), LocalVisBackend)
    assert visualizer.get_backend("absent") is None
    assert configs[1]["name"] == "other"
    visualizer.add_scalar("acc", 0.5, step=1)
    visualizer.add_scalars({"loss": 0.25}, step=2, file_path="run.json")
    visualizer.add_image("cat", blank(), step=3)
    visualizer.add_graph(torch.nn.Linear(1, 1))
    visualizer.close()
    for folder in (tmp_path / "a" / "vis_data", tmp_path / "b"):
        lines = [json.loads(line) for line in (folder / "scalars.json").read_text().splitlines()]
        assert lines == [{"acc": 0.5, "step": 1}, {"loss": 0.25, "step": 2}]
        assert (folder / "run.json").exists() and (folder / "vis_image" / "cat_3.png").exists()
    with pytest.raises(ValueError, match="two backends .* 'LocalVisBackend'"):
        Visualizer(vis_backends=[configs[0], configs[0]], save_dir=str(tmp_path))


def test_a_backend_without_folder_is_left_out() -> None:
    assert Visualizer(vis_backends={"type": "LocalVisBackend"}).get_backend("LocalVisBackend") is None


def test_only_the_first_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visualizer_module, "is_main_process", lambda: False)
    visualizer = Visualizer(vis_backends=LocalVisBackend(str(tmp_path / "a")))
    visualizer.add_scalar("acc", 0.5)
    visualizer.add_datasample("cat", blank())
    assert list(tmp_path.iterdir()) == []


def picture(folder: Path, name: str) -> np.ndarray:
    with Image.open(folder / "vis_data" / "vis_image" / name) as image:
        return np.array(image)


def test_classified_sample(tmp_path: Path) -> None:
    visualizer = Visualizer(vis_backends={"type": "LocalVisBackend"}, save_dir=str(tmp_path))
    visualizer.dataset_meta = {"classes": ("cat", "dog")}
    sample = DataSample(gt_label=torch.tensor(1), pred_label=torch.tensor([0]), pred_score=torch.tensor([0.75, 0.25]))
    gray = np.full((28, 28), 200)
    visualizer.add_datasample("both", gray, sample, step=2)
    both = picture(tmp_path, "both_2.png")
    assert both.shape == (64 + 224, 224 + 4 + 224, 3)  # a caption of three lines; a gap between the two
    left, right = both[:, :224], both[:, 228:]
    assert (left[64:] == 200).all() and (right[64:] == 200).all()
    assert (left[:64] != right[:64]).any()
    assert (right[:22] == (255, 138, 128)).all(-1).any()  # a wrong prediction, in red
    visualizer.add_datasample("gt", gray, sample, draw_pred=False)
    np.testing.assert_array_equal(picture(tmp_path, "gt_0.png"), np.concatenate([left[:24], left[64:]]))
    visualizer.add_datasample("none", gray, sample, draw_gt=False, draw_pred=False)
    assert (picture(tmp_path, "none_0.png") == 200).all()


def test_sample_with_instances(tmp_path: Path) -> None:
    visualizer = Visualizer()
    visualizer.dataset_meta = {
        "classes": ("cat", "dog"),
        "palette": [(255, 0, 0), (0, 0, 255)],
        "skeleton_links": [(0, 1)],
    }
    masks = torch.zeros(2, 240, 300, dtype=torch.bool)
    masks[0, 100:150, 20:60] = True
    instances = InstanceData(
        bboxes=torch.tensor([[20.0, 100, 60, 150], [200, 100, 280, 200]]),
        labels=torch.tensor([0, 1]),
        scores=torch.tensor([0.9, 0.1]),
        masks=masks,
        keypoints=torch.tensor([[[30.0, 110], [50, 140]], [[0, 0], [1, 1]]]),
    )
    sample = DataSample(pred_instances=instances)
    out_file = tmp_path / "out" / "x.png"
    visualizer.add_datasample("x", blank(240, 300), sample, out_file=str(out_file))
    with Image.open(out_file) as image:
        drawn = np.array(image)
    assert drawn.shape == (240, 300, 3)
    assert drawn[149, 20].tolist() == [255, 0, 0]  # the edge of the box
    assert drawn[145, 25].tolist() == [255, 128, 128]  # the mask
    assert drawn[110, 30].tolist() == list(KEYPOINT)
    assert (drawn[:, 150:] == 255).all()  # score below the threshold
    visualizer.add_datasample("y", blank(240, 300), sample, pred_score_thr=0.05)
    assert (visualizer.get_image()[:, 150:] != 255).any()


def test_keypoints_below_the_threshold_are_left_out() -> None:
    visualizer = Visualizer()
    instances = InstanceData(
        keypoints=torch.tensor([[[40.0, 120], [200, 120]]]), keypoint_scores=torch.tensor([[0.9, 0.1]])
    )
    visualizer.add_datasample("x", blank(240, 300), DataSample(pred_instances=instances))
    drawn = (visualizer.get_image() == KEYPOINT).all(-1)
    assert drawn[120, 40]
    assert not drawn[:, 150:].any()
    truth = InstanceData(keypoints=instances.keypoints, keypoints_visible=torch.tensor([[0.0, 1.0]]))
    visualizer.add_datasample("y", blank(240, 300), DataSample(gt_instances=truth))
    drawn = (visualizer.get_image() == drawing.palette(2)[1]).all(-1)
    assert drawn[120, 200]
    assert not drawn[:, :150].any()


def test_sample_without_instances_above_the_threshold() -> None:
    visualizer = Visualizer()
    empty = InstanceData(bboxes=torch.zeros(1, 4), labels=torch.zeros(1, dtype=torch.int64), scores=torch.zeros(1))
    visualizer.add_datasample("x", blank(240, 300), DataSample(pred_instances=empty))
    assert (visualizer.get_image() == 255).all()


def test_sample_with_a_segmentation_map() -> None:
    visualizer = Visualizer()
    visualizer.dataset_meta = {"classes": ("road", "car"), "palette": [[0, 0, 0], [255, 0, 0]]}
    labels = torch.zeros(1, 112, 112, dtype=torch.int64)
    labels[0, 0, 0], labels[0, 0, 1] = 1, 255
    visualizer.add_datasample("x", blank(112, 112), DataSample(gt_sem_seg=PixelData(sem_seg=labels)))
    assert visualizer.get_image().shape == (224, 224, 3)
    assert pixel(visualizer, 1, 1) == (255, 128, 128)
    assert pixel(visualizer, 3, 1) == WHITE  # ignored
    assert pixel(visualizer, 10, 10) == (128, 128, 128)


def test_segmentation_maps_have_class_names_and_may_differ_in_size_from_the_image() -> None:
    visualizer = Visualizer()
    visualizer.dataset_meta = {"classes": ("no",), "seg_classes": ("sky", "sea"), "palette": [(0, 0, 0), (0, 0, 255)]}
    labels = torch.zeros(1, 8, 16, dtype=torch.int64)
    labels[:, 4:] = 1
    visualizer.add_datasample("x", blank(300, 400), DataSample(pred_sem_seg=PixelData(sem_seg=labels)), draw_gt=False)
    drawn = visualizer.get_image()
    assert drawn.shape == (300, 400, 3)
    assert (pixel(visualizer, 2, 148), pixel(visualizer, 2, 151)) == ((128, 128, 128), (128, 128, 255))
    for half in (drawn[:150], drawn[150:]):
        assert half.min(2).max() > 200  # a name in white


def test_show_without_display(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    Visualizer(image=blank(), save_dir=str(tmp_path)).show(win_name="cat")
    assert (tmp_path / "vis_data" / "show" / "cat.png").exists()


def test_current_instance() -> None:
    class Mine(Visualizer):
        """A visualizer of a downstream library."""

    mine = Mine("mine")
    with Visualizer.set_current(mine):
        assert Visualizer.get_current_instance() is mine
        assert Visualizer.get_instance("mine") is mine


@pytest.mark.long
def test_importing_it_imports_no_image_library() -> None:
    code = (
        "import sys, trainwright.engine.visualization.visualizer as v; v.Visualizer();"
        "print([m for m in ('PIL', 'torchvision', 'tensorboard', 'matplotlib', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_settings_of_mmengine_without_effect_log_a_warning(tmp_path: Path) -> None:
    logger = MMLogger("unused settings", log_file=tmp_path / "a.log")
    with MMLogger.set_current(logger):
        visualizer = Visualizer(fig_save_cfg=dict(dpi=300), save_dir=str(tmp_path), image=np.zeros((4, 4, 3), np.uint8))
        visualizer.show(wait_time=1.0, backend="cv2")
        Visualizer(fig_save_cfg=dict(dpi=300))
        visualizer.show()
    text = (tmp_path / "a.log").read_text()
    assert text.count("has no effect") == 3
    assert all(word in text for word in ("fig_save_cfg={'dpi': 300}", "wait_time=1.0", "backend='cv2'"))


def test_masks_in_rle_are_drawn_like_others() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (120, 90, 3), np.uint8)
    masks = np.zeros((6, 120, 90), bool)
    for mask, (top, left) in zip(masks[:4], [(0, 0), (100, 3), (40, 80), (30, 30)]):
        mask[top : top + 20, left : left + 10] = rng.random((min(20, 120 - top), min(10, 90 - left))) < 0.8
    masks[4] = True  # and the last one is empty
    boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0]] * 6)
    drawn = []
    for given in (torch.from_numpy(masks), [encode_rle(mask) for mask in masks]):
        instances = InstanceData(bboxes=boxes, labels=torch.arange(6), masks=given)
        drawn.append(samples.draw_sample(image, DataSample(pred_instances=instances), {}))
    assert np.array_equal(*drawn) and (drawn[0] != image.repeat(3, 0).repeat(3, 1)).any()


def test_columns_of_a_mask_are_decoded_alone() -> None:
    rng = np.random.default_rng(1)
    for density in (0, 0.02, 0.5, 1):
        for _ in range(30):
            mask = rng.random(rng.integers(1, 9, 2)) < density
            columns = np.flatnonzero(mask.any(0))
            found, first = decode_columns(encode_rle(mask))
            if not columns.size:
                assert found.size == 0
                continue
            assert first == max(0, columns[0] - 1)
            assert np.array_equal(found, mask[:, first : columns[-1] + 2])
    large = {"size": [2**20, 2**20], "counts": [2**38 + 5, 7, 2**40 - 2**38 - 12]}
    assert decode_columns(large)[0].shape == (2**20, 3) and decode_columns(large)[0].sum() == 7
    assert np.array_equal(decode_mask(encode_rle(mask), *mask.shape) > 0, mask)


def test_a_region_is_named_at_its_pixel_nearest_to_the_median() -> None:
    rng = np.random.default_rng(2)
    for density in (0.001, 0.01, 0.3, 1):
        mask = rng.random((90, 70)) < density
        mask[80, 3] = True
        points = np.argwhere(mask)
        row, column = points[np.abs(points - np.median(points, axis=0)).sum(1).argmin()]
        assert samples._middle(mask) == (column, row)
