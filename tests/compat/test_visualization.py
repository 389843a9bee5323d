"""The visualizer that draws with matplotlib."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import make_runner

from trainwright import engine
from trainwright.compat.mmengine import visualization
from trainwright.compat.mmengine.drawing_helpers import (
    color_str2rgb,
    color_val_matplotlib,
    convert_overlay_heatmap,
)
from trainwright.compat.mmengine.visualization import BaseVisBackend, Visualizer, force_init_env
from trainwright.engine.registry import VISUALIZERS

IMAGE = np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8)
BLUE = (0, 0, 255)
OPAQUE = dict(edge_colors="none", face_colors=BLUE, alpha=1.0)


class TextVisualizer(Visualizer):
    """Draws on the axes, as mmpretrain's does."""

    def add_datasample(self, name, image, data_sample=None, step=0, **kwargs):
        self.set_image(image)
        self.ax_save.text(20, 40, "cat", color="white", bbox=dict(facecolor="black"))
        self.add_image(name, self.get_image(), step)


@pytest.fixture(autouse=True)
def no_instances(monkeypatch):
    """Forget the visualizers of a test."""
    monkeypatch.setattr(engine.Visualizer, "_instance_dict", {})


@pytest.fixture
def drawn():
    """Return the pixels of the test image that a drawing changes, as slices, and its new values."""

    def draw(method, *args, **kwargs):
        visualizer = Visualizer(image=IMAGE)
        assert getattr(visualizer, method)(*args, **kwargs) is visualizer
        picture = visualizer.get_image()
        rows, columns = (picture != IMAGE).any(axis=2).nonzero()
        return (rows.min(), rows.max(), columns.min(), columns.max()), picture

    return draw


@pytest.mark.parametrize("size", [(80, 120), (37, 53), (301, 7)])
def test_image_is_returned_as_set(size):
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    visualizer = Visualizer(image=IMAGE)
    visualizer.set_image(image)
    assert (visualizer.get_image() == image).all()
    assert (visualizer.height, visualizer.width, visualizer._default_font_size) == (*size, 10)
    visualizer.set_image(image[..., 0])
    assert (visualizer.get_image() == image[..., :1]).all()


def test_shapes_cover_their_pixels(drawn):
    box = torch.tensor([10.0, 20, 40, 50])
    for method, shape in (
        ("draw_bboxes", [box]),
        ("draw_polygons", [[torch.tensor([[10, 20], [40, 20], [40, 50], [10, 50]])]]),
        ("draw_circles", [np.array([25, 35]), np.array([15])]),
    ):
        where, picture = drawn(method, *shape, **OPAQUE)
        assert np.abs(np.array(where) - (20, 49, 10, 39)).max() <= (method == "draw_circles"), method  # smooth edge
        assert (picture[30:40, 20:30] == BLUE).all()
    where, picture = drawn("draw_bboxes", torch.stack([box, box + 25]), **{**OPAQUE, "face_colors": ["r", BLUE]})
    assert where == (20, 74, 10, 64)
    assert (picture[25, 20] == (255, 0, 0)).all() and (picture[60, 50] == BLUE).all()


def test_lines_points_and_texts(drawn):
    where, picture = drawn("draw_lines", np.array([10, 110]), np.array([40, 40]), BLUE, line_widths=72 / 100 * 4)
    assert (picture[38:42, 12:108] == BLUE).all() and where == (38, 41, 10, 109)  # 4 pixels at 100 dpi
    where, picture = drawn("draw_points", torch.tensor([30, 20]), BLUE, sizes=np.array([100]))
    assert (picture[20, 30] == BLUE).all() and where[0] >= 12 and where[1] <= 28
    frame = dict(facecolor="black", alpha=1.0, edgecolor="black")
    where, picture = drawn("draw_texts", "cat", np.array([30, 20]), font_sizes=12, colors="w", bboxes=frame)
    assert (picture[20, 31] == 0).all() and where[0] < 20 and where[2] < 30
    assert (picture[20:40, 30:60] == 255).all(axis=2).any()


def test_subclass_with_other_order_of_arguments():
    """As mmpose's OpencvBackendVisualizer."""

    class Opencv(Visualizer):
        def draw_polygons(self, polygons, edge_colors="g", alpha=1.0, **kwargs):
            return super().draw_polygons(polygons, edge_colors=edge_colors, alpha=alpha, **kwargs)

    visualizer = Opencv(image=IMAGE).draw_bboxes(np.array([10, 20, 40, 50]), **OPAQUE)
    assert (visualizer.get_image()[20:50, 10:40] == BLUE).all()


def test_wide_edges_are_limited(drawn):
    where, _ = drawn("draw_bboxes", np.array([30, 30, 60, 60]), line_widths=50)
    assert 26 <= where[0] <= 29  # a quarter of the font size, in points


def test_masks_are_blended(drawn):
    masks = np.zeros((2, 80, 120), bool)
    masks[0, 10:20, 30:50] = masks[1, 40:60, 30:50] = True
    where, picture = drawn("draw_binary_masks", torch.tensor(masks), colors=[BLUE, "r"], alphas=[0.25, 0.5])
    assert where == (10, 59, 30, 49)
    expected = 0.75 * IMAGE[15, 40] + 0.25 * np.array(BLUE)
    assert np.abs(picture[15, 40] - expected).max() <= 0.5
    with pytest.raises(AssertionError, match="bool"):
        drawn("draw_binary_masks", masks.astype(np.uint8))


def test_wrong_arguments():
    visualizer = Visualizer(image=IMAGE)
    with pytest.raises(TypeError, match="bboxes"):
        visualizer.draw_bboxes([1, 2, 3, 4])
    with pytest.raises(AssertionError, match="x1 must not exceed x2"):
        visualizer.draw_bboxes(np.array([40, 2, 3, 4]))
    with pytest.raises(AssertionError, match=r"\(2, 2\)"):
        visualizer.draw_texts(["a", "b"], np.array([1, 2]))
    with pytest.raises(AssertionError, match="colors must have at least 2"):
        visualizer.draw_texts(["a", "b"], np.array([[1, 2], [3, 4]]), colors=["r"])
    with pytest.warns(UserWarning, match="outside"):
        visualizer.draw_polygons(np.array([[0, 0], [10, 0], [0, 100]]))
    with pytest.raises(TypeError, match="color"):
        visualizer.draw_points(np.array([1, 2]), colors=3)
    with pytest.raises(AttributeError, match="ax_sav"):
        _ = visualizer.ax_sav


def test_feature_maps():
    featmap = torch.zeros(6, 4, 8)
    featmap[2, :, 4:] = 1
    mean = Visualizer.draw_featmap(featmap)
    assert mean.shape == (4, 8, 3)
    assert (mean[:, :4] == (0, 0, 128)).all() and (mean[:, 4:] == (128, 0, 0)).all()  # the ends of "jet"
    assert (Visualizer.draw_featmap(featmap, channel_reduction="select_max") == mean).all()
    image = IMAGE[:40]
    over = Visualizer.draw_featmap(featmap, image, alpha=0.25)
    assert np.abs(over[0, 0] - (0.75 * image[0, 0] + 0.25 * np.array([0, 0, 128]))).max() <= 0.5
    assert Visualizer.draw_featmap(featmap, image, resize_shape=(20, 30)).shape == (20, 30, 3)
    big = featmap.repeat_interleave(10, 1).repeat_interleave(10, 2)
    grid = Visualizer.draw_featmap(big, channel_reduction=None, topk=5, arrangement=(2, 3))
    assert grid.shape == (80, 240, 3)
    assert np.abs(grid[30, 70].astype(int) - (128, 0, 0)).max() <= 1  # channel 2, with the largest sum, is the first
    assert Visualizer.draw_featmap(featmap[:3], channel_reduction=None, topk=0).shape == (4, 8, 3)
    with pytest.raises(AssertionError, match="arrangement"):
        Visualizer.draw_featmap(featmap, channel_reduction=None, topk=6, arrangement=(1, 5))


def test_colors():
    assert color_val_matplotlib([(0, 51, 255), "r"]) == [(0.0, 0.2, 1.0), "r"]
    assert color_str2rgb("orange") == (255, 165, 0)
    with pytest.raises(AssertionError, match="256"):
        color_val_matplotlib((0, 0, 256))
    assert convert_overlay_heatmap(np.array([[0.0, 1.0]])).tolist() == [[[0, 0, 128], [128, 0, 0]]]


def test_newest_is_current():
    first, second = TextVisualizer(name="first"), VISUALIZERS.build(dict(type=TextVisualizer, name="second"))
    assert Visualizer.get_current_instance() is second
    assert Visualizer.get_instance("first") is engine.Visualizer.get_instance("first") is first
    assert Visualizer.check_instance_created("second") and not Visualizer.check_instance_created("third")
    assert Visualizer.get_instance("third", image=IMAGE).width == 120
    newest = Visualizer("first")
    assert Visualizer.get_current_instance() is Visualizer.get_instance("first") is newest


def test_run_uses_a_subclass(tmp_path):
    seen = []

    class Draw(engine.Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            seen.append(Visualizer.get_current_instance())
            seen[-1].add_datasample("picture", IMAGE, step=runner.iter)

    runner = make_runner(
        tmp_path, [Draw()], visualizer=dict(type=TextVisualizer, vis_backends=[dict(type="LocalVisBackend")])
    )
    runner.train()
    assert set(seen) == {runner.visualizer}
    assert list(tmp_path.rglob("vis_data/vis_image/picture_0.png"))
    assert json.loads(next(tmp_path.rglob("scalars.json")).read_text().splitlines()[0])["step"] >= 1


def test_matplotlib_is_imported_to_draw_only():
    code = "import sys; from trainwright.compat.mmengine.visualization import Visualizer; Visualizer()"
    code += "; sys.exit('matplotlib' in sys.modules or 'cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_show_without_a_display_saves(tmp_path, monkeypatch):
    if sys.platform in ("win32", "darwin"):
        pytest.skip("has a display")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delitem(os.environ, name, raising=False)
    visualizer = Visualizer(image=IMAGE, save_dir=str(tmp_path))
    visualizer.show(win_name="shown")
    assert (tmp_path / "vis_data" / "show" / "shown.png").is_file()
    with pytest.raises(ValueError, match="backend"):
        visualizer.show(backend="pillow")


def test_backends_of_a_library(tmp_path):
    opened = []

    class Backend(BaseVisBackend):
        def __init__(self, save_dir):  # does not call the base class, like mmagic's PaviVisBackend
            self._save_dir = save_dir

        def _init_env(self):
            opened.append(Path(self._save_dir).name)

        @force_init_env
        def add_image(self, name, image, step=0, **kwargs):
            opened.append((name, step))

    visualizer = Visualizer(vis_backends=[dict(type=Backend)], save_dir=str(tmp_path))
    visualizer.add_image("a", IMAGE, 3)
    visualizer.add_image("b", IMAGE, 4)
    assert opened == ["vis_data", ("a", 3), ("b", 4)]
    assert visualization.WandbVisBackend is engine.WandbVisBackend
    with pytest.raises(AttributeError, match="NoVisBackend"):
        _ = visualization.NoVisBackend
