"""``mmengine.visualization``: a visualizer that draws with matplotlib, whose figure subclasses can draw on."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from torch import Tensor
from torch.nn import functional

from trainwright import engine
from trainwright.compat.mmengine.drawing_helpers import (
    Image,
    check_length,
    check_type,
    check_type_and_length,
    color_str2rgb,
    color_val_matplotlib,
    convert_overlay_heatmap,
    img_from_canvas,
    tensor2ndarray,
    value2list,
    wait_continue,
)
from trainwright.engine import (
    BaseVisBackend,
    LocalVisBackend,
    MLflowVisBackend,
    TensorboardVisBackend,
    WandbVisBackend,
)
from trainwright.engine.distributed import is_main_process
from trainwright.engine.visualization.backends.base import force_init_env

Points = Image | Tensor
Colors = Any  # a name, a tuple of three numbers from 0 to 255, or a list of these

_FRAMELESS: Mapping[str, Any] = {"frameon": False}


class Visualizer(engine.Visualizer):
    """MMEngine's visualizer: its drawings are those of matplotlib.

    Subclasses may draw on the axes ``ax_save`` of the figure ``fig_save``, which are made on first use. An instance can
    be accessed by its name, and the newest one, or that of the active run, with ``get_current_instance``.

    Args:
        name: name of the instance.
        image: image to draw on, RGB, (height, width, 3).
        vis_backends: backends, or their configs.
        save_dir: parent of the folder ``vis_data``, to which the backends write.
        fig_save_cfg: arguments of matplotlib's figure to draw on.
        fig_show_cfg: arguments of matplotlib's figure in the window.

    Raises:
        ValueError: two backends have the same name.
    """

    def __init__(
        self,
        name: str = "visualizer",
        image: Image | None = None,
        vis_backends: Any = None,
        save_dir: str | None = None,
        fig_save_cfg: Mapping[str, Any] | None = _FRAMELESS,
        fig_show_cfg: Mapping[str, Any] | None = _FRAMELESS,
    ) -> None:
        self.fig_save_cfg = dict(fig_save_cfg or {})
        self.fig_show_cfg = dict(fig_show_cfg or {})
        super().__init__(name, image, vis_backends, save_dir)
        self._instance_dict.pop(name, None)
        self._instance_dict[name] = self  # MMEngine's registries build visualizers with get_instance

    def __getattr__(self, name: str) -> Any:
        if name not in ("fig_save_canvas", "fig_save", "ax_save", "dpi"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        self.fig_save_canvas, self.fig_save, self.ax_save = self._initialize_fig(self.fig_save_cfg)
        self.dpi = self.fig_save.get_dpi()
        return self.__dict__[name]

    def _initialize_fig(self, fig_cfg: Mapping[str, Any]) -> tuple[Any, Any, Any]:
        """Return a canvas, its figure, and axes without margins."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(**fig_cfg)
        figure.subplots_adjust(left=0, right=1, bottom=0, top=1)
        axes = figure.add_subplot()
        axes.axis(False)
        return FigureCanvasAgg(figure), figure, axes

    def set_image(self, image: Image) -> None:
        """Copy an image to draw on: RGB, (height, width, 3), or gray, (height, width), with values from 0 to 255."""
        super().set_image(image)
        # matplotlib cuts the size in pixels off: https://github.com/matplotlib/matplotlib/issues/15363
        self.fig_save.set_size_inches((self.width + 0.01) / self.dpi, (self.height + 0.01) / self.dpi)
        self.ax_save.cla()
        self.ax_save.axis(False)
        self._put(self._image, "none")

    def get_image(self) -> Image:
        """Return the drawn image, RGB, uint8, (height, width, 3)."""
        assert self._image is not None, "no image to draw on: call set_image() first"
        return img_from_canvas(self.fig_save_canvas)

    def show(
        self,
        drawn_img: Image | None = None,
        win_name: str = "image",
        wait_time: float = 0.0,
        continue_key: str = " ",
        backend: str = "matplotlib",
    ) -> Any:
        """Show an image in a window until a key is pressed; without a display, save it to ``vis_data/show``.

        Args:
            drawn_img: the image; the drawn image by default.
            win_name: title of the window.
            wait_time: seconds to show it; 0 for no limit.
            continue_key: the key that closes the window of ``matplotlib``.
            backend: ``matplotlib`` or ``cv2``.

        Returns:
            The figure in a notebook, otherwise None.
        """
        if backend not in ("matplotlib", "cv2"):
            raise ValueError(f"backend must be 'matplotlib' or 'cv2', not {backend!r}")
        if not is_main_process():
            return None
        picture = self.get_image() if drawn_img is None else drawn_img
        if backend == "cv2":
            import cv2

            window = str(id(self))
            cv2.namedWindow(window)
            cv2.setWindowTitle(window, win_name)
            cv2.imshow(window, picture)
            cv2.waitKey(int(np.ceil(wait_time * 1000)))
            return None
        import matplotlib.pyplot as plt

        is_inline = "inline" in plt.get_backend()
        self._init_manager(win_name)
        figure = self.manager.canvas.figure
        if not is_inline and figure.canvas.required_interactive_framework is None:
            return super().show(picture, win_name)
        figure.subplots_adjust(left=0, right=1, bottom=0, top=1)
        figure.clear()
        axes = figure.add_subplot()
        axes.axis(False)
        axes.imshow(picture)
        figure.canvas.draw()
        if is_inline:
            return figure
        wait_continue(figure, timeout=wait_time, continue_key=continue_key)
        return None

    def _init_manager(self, win_name: str) -> None:
        """Open a window, or set the title of the one that is open."""
        from matplotlib.figure import Figure
        from matplotlib.pyplot import new_figure_manager

        try:
            self.manager.set_window_title(win_name)
        except Exception:  # there is no window yet, or it was closed, which each toolkit reports in its own way
            new_window: Any = new_figure_manager  # has no types
            self.manager: Any = new_window(num=1, FigureClass=Figure, **self.fig_show_cfg)
            self.manager.set_window_title(win_name)

    def _is_posion_valid(self, position: Image) -> bool:
        """Return whether all points, as (x, y), are inside the image."""
        return bool(((position >= 0) & (position < (self.width, self.height))).all())

    def _warn_outside(self, what: str, position: Image) -> None:
        if not self._is_posion_valid(position):
            warnings.warn(f"the {what} is partly outside the image", UserWarning, stacklevel=3)

    def _put(self, image: Any, interpolation: str) -> None:
        self.ax_save.imshow(image, extent=(0, self.width, self.height, 0), interpolation=interpolation)

    def _widths(self, line_widths: Any, number: int) -> list[float]:
        """Return a width for each line, at least 1 and at most a quarter of the font size."""
        most = self._default_font_size / 4
        return [min(max(width, 1), most) for width in value2list(line_widths, (int, float), number)]

    def draw_points(
        self, positions: Points, colors: Colors = "g", marker: str | None = None, sizes: Points | None = None
    ) -> Self:
        """Draw points.

        Args:
            positions: (N, 2) or (2,), as (x, y).
            colors: colors of the points.
            marker: one of matplotlib's markers.
            sizes: areas in square points, (N,).
        """
        at = _points("positions", positions, 2)
        self.ax_save.scatter(at[:, 0], at[:, 1], c=color_val_matplotlib(colors), s=sizes, marker=marker)
        return self

    def draw_texts(
        self,
        texts: str | Sequence[str],
        positions: Points,
        font_sizes: float | list[float] | None = None,
        colors: Colors = "g",
        vertical_alignments: str | list[str] = "top",
        horizontal_alignments: str | list[str] = "left",
        font_families: str | list[str] = "sans-serif",
        bboxes: Any = None,
        font_properties: Any = None,
    ) -> Self:
        """Draw texts. Each argument is one value for all texts, or a list.

        Args:
            texts: one or several texts.
            positions: (N, 2) or (2,), as (x, y).
            font_sizes: in points; depends on the image size by default.
            colors: colors of the texts.
            vertical_alignments: ``top``, ``center``, ``bottom`` or ``baseline``.
            horizontal_alignments: ``left``, ``center`` or ``right``.
            font_families: such as ``serif``, ``sans-serif`` or ``monospace``.
            bboxes: arguments of matplotlib's ``FancyBboxPatch`` for frames behind the texts.
            font_properties: matplotlib's ``FontProperties``.
        """
        from matplotlib.font_manager import FontProperties

        check_type("texts", texts, (str, list))
        lines = [texts] if isinstance(texts, str) else list(texts)
        number = len(lines)
        at = _points("positions", positions, 2)
        assert at.shape == (number, 2), f"positions must be ({number}, 2), not {at.shape}"
        self._warn_outside("text", at)

        def each(name: str, value: Any, *types: type) -> Any:
            if value is None:
                return [None] * number
            check_type_and_length(name, value, (*types, list), number)
            return value2list(value, types, number)

        columns = {
            "size": each("font_sizes", self._default_font_size if font_sizes is None else font_sizes, int, float),
            "bbox": each("bboxes", bboxes, dict),
            "verticalalignment": each("vertical_alignments", vertical_alignments, str),
            "horizontalalignment": each("horizontal_alignments", horizontal_alignments, str),
            "family": each("font_families", font_families, str),
            "fontproperties": each("font_properties", font_properties, FontProperties),
            "color": color_val_matplotlib(each("colors", colors, str, tuple)),
        }
        for index, (line, (x, y)) in enumerate(zip(lines, at.tolist())):
            self.ax_save.text(x, y, line, **{name: values[index] for name, values in columns.items()})
        return self

    def draw_lines(
        self,
        x_datas: Points,
        y_datas: Points,
        colors: Colors = "g",
        line_styles: Any = "-",
        line_widths: Any = 2,
    ) -> Self:
        """Draw lines.

        Args:
            x_datas: x coordinates of the end points, (N, 2) or (2,).
            y_datas: y coordinates of the end points, of the same shape.
            colors: colors of the lines.
            line_styles: ``-``, ``--``, ``:`` or ``-.``.
            line_widths: in points.
        """
        from matplotlib.collections import LineCollection

        xs, ys = _points("x_datas", x_datas, 2), _points("y_datas", y_datas, 2)
        assert xs.shape == ys.shape, f"x_datas and y_datas differ in shape: {xs.shape}, {ys.shape}"
        ends = np.stack([xs, ys], axis=-1)
        self._warn_outside("line", ends)
        self.ax_save.add_collection(
            LineCollection(
                ends.tolist(), colors=color_val_matplotlib(colors), linestyles=line_styles, linewidths=line_widths
            )
        )
        return self

    def draw_circles(
        self,
        center: Points,
        radius: Points,
        edge_colors: Colors = "g",
        line_styles: Any = "-",
        line_widths: Any = 2,
        face_colors: Colors = "none",
        alpha: float = 0.8,
    ) -> Self:
        """Draw circles.

        Args:
            center: (N, 2) or (2,), as (x, y).
            radius: in pixels, (N,).
            edge_colors, line_styles, line_widths, face_colors, alpha: as for :meth:`draw_polygons`.
        """
        from matplotlib.collections import PatchCollection
        from matplotlib.patches import Circle

        centers = _points("center", center, 2)
        check_type("radius", radius, (np.ndarray, Tensor))
        radii: Image = tensor2ndarray(radius)
        assert centers.shape == (radii.shape[0], 2), f"center must be ({radii.shape[0]}, 2), not {centers.shape}"
        self._warn_outside("circle", np.stack([centers - radii.reshape(-1, 1), centers + radii.reshape(-1, 1)]))
        circles = [Circle(tuple(at), r) for at, r in zip(centers.tolist(), radii.tolist())]
        self.ax_save.add_collection(
            PatchCollection(
                circles, alpha=alpha,
                facecolors=color_val_matplotlib(face_colors), edgecolors=color_val_matplotlib(edge_colors),
                linewidths=self._widths(line_widths, len(circles)), linestyles=line_styles,
            )
        )  # fmt: skip
        return self

    def draw_bboxes(
        self,
        bboxes: Points,
        edge_colors: Colors = "g",
        line_styles: Any = "-",
        line_widths: Any = 2,
        face_colors: Colors = "none",
        alpha: float = 0.8,
    ) -> Self:
        """Draw boxes.

        Args:
            bboxes: (N, 4) or (4,), as (x1, y1, x2, y2).
            edge_colors, line_styles, line_widths, face_colors, alpha: as for :meth:`draw_polygons`.
        """
        boxes = _points("bboxes", bboxes, 4)
        assert (boxes[:, :2] <= boxes[:, 2:]).all(), "x1 must not exceed x2, nor y1 y2"
        self._warn_outside("box", boxes.reshape(-1, 2, 2))
        corners = list(boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2))
        return self.draw_polygons(  # by keyword, since mmpose's has another order
            corners,
            edge_colors=edge_colors,
            line_styles=line_styles,
            line_widths=line_widths,
            face_colors=face_colors,
            alpha=alpha,
        )

    def draw_polygons(
        self,
        polygons: Points | Sequence[Points],
        edge_colors: Colors = "g",
        line_styles: Any = "-",
        line_widths: Any = 2,
        face_colors: Colors = "none",
        alpha: float = 0.8,
    ) -> Self:
        """Draw polygons.

        Args:
            polygons: one polygon, (M, 2) as (x, y), or a list of them.
            edge_colors: colors of the edges; ``none`` for no edges.
            line_styles: ``-``, ``--``, ``:`` or ``-.``.
            line_widths: in points, limited to a quarter of the font size.
            face_colors: fill colors; ``none`` for no fill.
            alpha: opacity from 0 to 1.
        """
        from matplotlib.collections import PolyCollection

        check_type("polygons", polygons, (list, np.ndarray, Tensor))
        shapes = [tensor2ndarray(each) for each in (polygons if isinstance(polygons, list) else [polygons])]
        for shape in shapes:
            assert shape.shape[1] == 2, f"a polygon must be (M, 2), not {shape.shape}"
            self._warn_outside("polygon", shape)
        self.ax_save.add_collection(
            PolyCollection(
                shapes, alpha=alpha,
                facecolor=color_val_matplotlib(face_colors), edgecolors=color_val_matplotlib(edge_colors),
                linewidths=self._widths(line_widths, len(shapes)), linestyles=line_styles,
            )
        )  # fmt: skip
        return self

    def draw_binary_masks(self, binary_masks: Points, colors: Colors = "g", alphas: Any = 0.8) -> Self:
        """Overlay masks in color.

        Args:
            binary_masks: bool, (N, height, width) or (height, width), with the size of the image.
            colors: colors of the masks.
            alphas: opacity from 0 to 1.
        """
        import cv2

        check_type("binary_masks", binary_masks, (np.ndarray, Tensor))
        masks: Image = tensor2ndarray(binary_masks)
        assert masks.dtype == np.bool_, f"masks must be bool, not {masks.dtype}"
        masks = masks[None] if masks.ndim == 2 else masks
        image = self.get_image()
        assert image.shape[:2] == masks.shape[1:], f"masks must have the size of the image, {image.shape[:2]}"
        check_type_and_length("colors", colors, (str, tuple, list), len(masks))
        tints = [color_str2rgb(c) if isinstance(c, str) else c for c in value2list(colors, (str, tuple), len(masks))]
        for mask, tint, alpha in zip(masks, tints, value2list(alphas, float, len(masks))):
            assert len(tint) == 3 and all(0 <= value <= 255 for value in tint), f"{tint} is not an RGB color"
            tinted = np.where(mask[..., None], np.array(tint, np.uint8), image)
            image = cv2.addWeighted(image, 1 - alpha, tinted, alpha, 0)
        self._put(image, "nearest")
        return self

    @staticmethod
    def draw_featmap(
        featmap: Tensor,
        overlaid_image: Image | None = None,
        channel_reduction: str | None = "squeeze_mean",
        topk: int = 20,
        arrangement: tuple[int, int] = (4, 5),
        resize_shape: tuple[int, int] | None = None,
        alpha: float = 0.5,
    ) -> Image:
        """Return an image of a feature map.

        Args:
            featmap: (channels, height, width).
            overlaid_image: image below the map, RGB, uint8, (height, width, 3). The map is resized to it.
            channel_reduction: ``squeeze_mean`` shows the mean of the channels, ``select_max`` the channel with the
                largest sum, None several channels.
            topk: number of channels to show, those with the largest sums. If not positive, the map must have 1 or 3
                channels.
            arrangement: rows and columns of the channels.
            resize_shape: (height, width) of each map.
            alpha: opacity of the map over the image.
        """
        import cv2

        assert isinstance(featmap, Tensor), f"featmap must be a tensor, not {type(featmap)}"
        assert featmap.ndim == 3, f"featmap must be (channels, height, width), not {tuple(featmap.shape)}"
        featmap = featmap.detach().cpu()
        if overlaid_image is not None:
            if overlaid_image.ndim == 2:
                overlaid_image = cv2.cvtColor(overlaid_image, cv2.COLOR_GRAY2RGB)
            if resize_shape is not None:
                overlaid_image = cv2.resize(overlaid_image, resize_shape[::-1])
            resize_shape = (overlaid_image.shape[0], overlaid_image.shape[1])
        if resize_shape is not None and resize_shape != tuple(featmap.shape[1:]):
            featmap = functional.interpolate(featmap[None], resize_shape, mode="bilinear", align_corners=False)[0]
        if channel_reduction == "squeeze_mean":
            return convert_overlay_heatmap(featmap.mean(dim=0), overlaid_image, alpha)
        if channel_reduction == "select_max":
            strongest = featmap.sum(dim=(1, 2)).topk(1).indices
            return convert_overlay_heatmap(featmap[strongest], overlaid_image, alpha)
        assert channel_reduction is None, f"channel_reduction: {channel_reduction!r} is unknown"
        if topk <= 0:
            assert featmap.shape[0] in (1, 3), "set channel_reduction or topk to show other than 1 or 3 channels"
            return convert_overlay_heatmap(featmap, overlaid_image, alpha)
        return _grid_of_maps(featmap, overlaid_image, topk, arrangement, alpha)


def _grid_of_maps(
    featmap: Tensor, overlaid_image: Image | None, topk: int, arrangement: tuple[int, int], alpha: float
) -> Image:
    """Return an image of several channels, with their numbers."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, columns = arrangement
    assert rows * columns >= topk, f"{topk} maps do not fit into {rows} rows of {columns}: set arrangement"
    channels, height, width = featmap.shape
    figure = Figure(frameon=False)
    figure.subplots_adjust(left=0, right=1, bottom=0, top=1, wspace=0, hspace=0)
    dpi = figure.get_dpi()
    figure.set_size_inches((width * columns + 0.01) / dpi, (height * rows + 0.01) / dpi)
    for place, channel in enumerate(featmap.sum(dim=(1, 2)).topk(min(topk, channels)).indices.tolist()):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.axis("off")
        axes.text(2, 15, f"channel: {channel}", fontsize=10)
        axes.imshow(convert_overlay_heatmap(featmap[channel], overlaid_image, alpha))
    return img_from_canvas(FigureCanvasAgg(figure))


def _points(name: str, values: Any, size: int) -> Image:
    """Return an argument as an array of (N, size)."""
    check_type(name, values, (np.ndarray, Tensor))
    rows: Image = tensor2ndarray(values)
    rows = rows[None] if rows.ndim == 1 else rows
    assert rows.shape[-1] == size, f"{name} must be (N, {size}), not {rows.shape}"
    return rows


def __getattr__(name: str) -> Any:
    """Return a backend that the engine has beside those above."""
    if name.endswith("VisBackend"):
        return getattr(engine, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
