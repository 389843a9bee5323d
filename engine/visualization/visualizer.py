"""The visualizer, which draws on images and writes images, scalars and configs to its backends."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from torch import Tensor, nn

from trainwright.engine.distributed import is_main_process
from trainwright.engine.errors import ConfigError
from trainwright.engine.records.current import CurrentMixin
from trainwright.engine.records.logger import get_logger
from trainwright.engine.registry import VISBACKENDS, VISUALIZERS
from trainwright.engine.visualization import drawing
from trainwright.engine.visualization.backends.base import BaseVisBackend
from trainwright.engine.visualization.drawing import Colors

if TYPE_CHECKING:
    from trainwright.engine.config.config import Config
    from trainwright.engine.structures.elements import BaseDataElement

Image = np.ndarray[Any, Any]
Points = Image | Tensor
Backends = Mapping[str, Any] | BaseVisBackend | Sequence[Mapping[str, Any] | BaseVisBackend]


@VISUALIZERS.register_module()
class Visualizer(CurrentMixin):
    """A visualizer that draws on an image, and writes images, scalars and the config of a run to its backends.

    Only rank 0 writes. Colors are names, letters as in matplotlib, ``"#rrggbb"``, or tuples of three numbers from 0
    to 255. A list sets a separate value for each object. Lines are styled ``-``, ``--``, ``:`` or ``-.``.

    Example:
        >>> visualizer = Visualizer(image=image)
        >>> visualizer.draw_bboxes(torch.tensor([4, 4, 20, 30])).draw_texts("cat", torch.tensor([4, 4]))
        >>> picture = visualizer.get_image()

    Args:
        name: name of the instance.
        image: image to draw on, RGB, uint8, (height, width, 3).
        vis_backends: backends, or their configs. The key ``name`` allows several of one class.
        save_dir: parent of the folder ``vis_data``, to which the backends write.
        fig_save_cfg: unused (for MMEngine's matplotlib figures); a value logs a warning.
        fig_show_cfg: unused, like ``fig_save_cfg``.

    Raises:
        ValueError: two backends have the same name.
    """

    def __init__(
        self,
        name: str = "visualizer",
        image: Image | None = None,
        vis_backends: Backends | None = None,
        save_dir: str | None = None,
        fig_save_cfg: Mapping[str, Any] | None = None,
        fig_show_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(name)
        _warn_of_unused(fig_save_cfg=(fig_save_cfg, None), fig_show_cfg=(fig_show_cfg, None))
        self.dataset_meta: dict[str, Any] | None = None
        self._save_dir = None if save_dir is None else str(Path(save_dir) / "vis_data")
        self._vis_backends: dict[str, BaseVisBackend] = {}
        for backend in [vis_backends] if isinstance(vis_backends, Mapping | BaseVisBackend) else vis_backends or ():
            self._add_backend(backend)
        self._image: Image | None = None
        self.width = self.height = 0
        self._default_font_size = 10.0
        if image is not None:
            self.set_image(image)

    def set_image(self, image: Image) -> None:
        """Copy an image to draw on: RGB, (height, width, 3), or gray, (height, width), with values from 0 to 255."""
        self._image = drawing.as_image(image)
        self.height, self.width = self._image.shape[:2]
        self._default_font_size = float(max(np.sqrt(self.height * self.width) // 90, 10))

    def get_image(self) -> Image:
        """Return the drawn image, RGB, uint8, (height, width, 3), or raise a ``ValueError`` if no image is set."""
        if self._image is None:
            raise ValueError("no image to draw on: call set_image() first")
        return self._image

    def show(
        self,
        drawn_img: Image | None = None,
        win_name: str = "image",
        wait_time: float = 0.0,
        continue_key: str = " ",
        backend: str = "pillow",
    ) -> None:
        """Show an image in a window or, without a display, save it to ``vis_data/show``.

        Args:
            drawn_img: the image; the drawn image by default.
            win_name: name of the window or file.
            wait_time: unused (for MMEngine), since the window does not block; other values log a warning.
            continue_key: unused, like ``wait_time``.
            backend: unused, like ``wait_time``.
        """
        import PIL.Image

        _warn_of_unused(wait_time=(wait_time, 0), continue_key=(continue_key, " "), backend=(backend, "pillow"))
        picture = PIL.Image.fromarray(self.get_image() if drawn_img is None else drawn_img)
        has_display = sys.platform in ("win32", "darwin") or "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
        if has_display:
            picture.show(win_name)
        elif self._save_dir is not None:
            path = Path(self._save_dir) / "show" / f"{win_name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
            get_logger().info(f"No display: saved the image to {path}")
        else:
            get_logger().warning("no display and no save_dir: image not shown")

    def get_backend(self, name: str) -> BaseVisBackend | None:
        """Return a backend by its name (by default the name of its class), or None."""
        return self._vis_backends.get(name)

    def draw_points(
        self, positions: Points, colors: Colors = "g", marker: str | None = None, sizes: Points | None = None
    ) -> Self:
        """Draw points.

        Args:
            positions: (N, 2) or (2,), as (x, y).
            colors: colors of the points.
            marker: ``o``, ``s``, ``+`` or ``x``.
            sizes: areas in square pixels, (N,); 36 by default.
        """
        self._image = drawing.draw_points(self.get_image(), positions, colors, marker, sizes)
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
        bboxes: Mapping[str, Any] | list[Mapping[str, Any]] | None = None,
        font_properties: Any = None,
    ) -> Self:
        """Draw texts.

        Args:
            texts: one or several texts.
            positions: (N, 2) or (2,), as (x, y).
            font_sizes: height in pixels; depends on the image size by default.
            colors: colors of the texts.
            vertical_alignments: ``top``, ``center``, ``bottom`` or ``baseline``.
            horizontal_alignments: ``left``, ``center`` or ``right``.
            font_families: ``sans-serif``, or the path of a font file, for letters missing in the built-in font.
            bboxes: frames behind the texts, with ``facecolor``, ``edgecolor``, ``alpha`` and ``pad``.
            font_properties: path of a font file, like ``font_families`` (for MMEngine).
        """
        lines = [texts] if isinstance(texts, str) else list(texts)
        sizes = self._default_font_size if font_sizes is None else font_sizes
        fonts = font_families if font_properties is None else font_properties
        alignments = vertical_alignments, horizontal_alignments
        self._image = drawing.draw_texts(self.get_image(), lines, positions, sizes, colors, *alignments, fonts, bboxes)
        return self

    def draw_lines(
        self,
        x_datas: Points,
        y_datas: Points,
        colors: Colors = "g",
        line_styles: str | list[str] = "-",
        line_widths: float | list[float] = 2,
    ) -> Self:
        """Draw lines.

        Args:
            x_datas: x coordinates of the end points, (N, 2) or (2,).
            y_datas: y coordinates of the end points, of the same shape.
            colors: colors of the lines.
            line_styles: ``-``, ``--``, ``:`` or ``-.``.
            line_widths: in pixels.

        Raises:
            ValueError: the shapes differ.
        """
        if x_datas.shape != y_datas.shape:
            raise ValueError(f"x and y differ in shape: {tuple(x_datas.shape)}, {tuple(y_datas.shape)}")
        ends = np.stack([drawing.array(x_datas).reshape(-1, 2), drawing.array(y_datas).reshape(-1, 2)], axis=-1)
        self._image = drawing.draw_lines(self.get_image(), ends[:, 0], ends[:, 1], colors, line_styles, line_widths)
        return self

    def draw_circles(
        self,
        center: Points,
        radius: Points,
        edge_colors: Colors = "g",
        line_styles: str | list[str] = "-",
        line_widths: float | list[float] = 2,
        face_colors: Colors = "none",
        alpha: float = 0.8,
    ) -> Self:
        """Draw circles.

        Args:
            center: (N, 2) or (2,), as (x, y).
            radius: in pixels, (N,).
            edge_colors, line_styles, line_widths, face_colors, alpha: as for :meth:`draw_polygons`.
        """
        centers = drawing.array(center).reshape(-1, 2).tolist()
        circles = [drawing.circle(at, r) for at, r in zip(centers, drawing.array(radius).reshape(-1).tolist())]
        return self.draw_polygons(circles, edge_colors, line_styles, line_widths, face_colors, alpha)

    def draw_bboxes(
        self,
        bboxes: Points,
        edge_colors: Colors = "g",
        line_styles: str | list[str] = "-",
        line_widths: float | list[float] = 2,
        face_colors: Colors = "none",
        alpha: float = 0.8,
    ) -> Self:
        """Draw boxes.

        Args:
            bboxes: (N, 4) or (4,), as (x1, y1, x2, y2).
            edge_colors, line_styles, line_widths, face_colors, alpha: as for :meth:`draw_polygons`.

        Raises:
            ValueError: ``bboxes`` has the wrong shape.
        """
        if bboxes.shape[-1] != 4:
            raise ValueError(f"bboxes must be (N, 4), as (x1, y1, x2, y2), not {tuple(bboxes.shape)}")
        boxes = [drawing.box(corners) for corners in drawing.array(bboxes).reshape(-1, 4).tolist()]
        return self.draw_polygons(boxes, edge_colors, line_styles, line_widths, face_colors, alpha)

    def draw_polygons(
        self,
        polygons: Points | Sequence[Points],
        edge_colors: Colors = "g",
        line_styles: str | list[str] = "-",
        line_widths: float | list[float] = 2,
        face_colors: Colors = "none",
        alpha: float = 0.8,
    ) -> Self:
        """Draw polygons.

        Args:
            polygons: one polygon, (M, 2) as (x, y), or a list of them.
            edge_colors: colors of the edges; ``none`` for no edges.
            line_styles: ``-``, ``--``, ``:`` or ``-.``.
            line_widths: in pixels.
            face_colors: fill colors; ``none`` for no fill.
            alpha: opacity from 0 to 1.
        """
        several = [polygons] if isinstance(polygons, np.ndarray | Tensor) else list(polygons)
        self._image = drawing.draw_polygons(
            self.get_image(), several, edge_colors, line_styles, line_widths, face_colors, alpha
        )
        return self

    def draw_binary_masks(self, binary_masks: Points, colors: Colors = "g", alphas: float | list[float] = 0.8) -> Self:
        """Overlay masks in color.

        Args:
            binary_masks: bool, (N, height, width) or (height, width), with the size of the image.
            colors: colors of the masks.
            alphas: opacity from 0 to 1.

        Raises:
            ValueError: wrong dtype or size.
        """
        self._image = drawing.draw_masks(self.get_image(), binary_masks, colors, alphas)
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
                channels, which are shown as colors.
            arrangement: rows and columns of the channels.
            resize_shape: (height, width) of each map.
            alpha: opacity of the map over the image.

        Raises:
            ValueError: the arguments do not match the map.
        """
        return drawing.draw_featmap(featmap, overlaid_image, channel_reduction, topk, arrangement, resize_shape, alpha)

    def add_config(self, config: "Config", **kwargs: Any) -> None:
        """Write the config of the run."""
        self._write(lambda backend: backend.add_config(config, **kwargs))

    def add_graph(self, model: nn.Module, data_batch: Any = None, **kwargs: Any) -> None:
        """Write the structure of the model."""
        self._write(lambda backend: backend.add_graph(model, data_batch, **kwargs))

    def add_image(self, name: str, image: Image, step: int = 0) -> None:
        """Write an image, RGB, uint8, (height, width, 3)."""
        self._write(lambda backend: backend.add_image(name, image, step))

    def add_scalar(self, name: str, value: Any, step: int = 0, **kwargs: Any) -> None:
        """Write a scalar."""
        self._write(lambda backend: backend.add_scalar(name, value, step, **kwargs))

    def add_scalars(
        self, scalar_dict: Mapping[str, Any], step: int = 0, file_path: str | None = None, **kwargs: Any
    ) -> None:
        """Write scalars by name; file backends also write them to ``file_path``."""
        self._write(lambda backend: backend.add_scalars(scalar_dict, step, file_path, **kwargs))

    def add_datasample(
        self,
        name: str,
        image: Image,
        data_sample: "BaseDataElement | None" = None,
        draw_gt: bool = True,
        draw_pred: bool = True,
        show: bool = False,
        wait_time: float = 0,
        step: int = 0,
        pred_score_thr: float = 0.3,
        out_file: str | None = None,
    ) -> None:
        """Draw a sample with its annotations next to its predictions, and write the image.

        Args:
            name: name of the image.
            image: RGB, uint8, (height, width, 3), or gray, (height, width).
            data_sample: sample with labels, boxes, masks, keypoints or a segmentation map.
            draw_gt: whether to draw annotations.
            draw_pred: whether to draw predictions.
            show: whether to also show the image.
            wait_time: as for :meth:`show`.
            step: epoch or iteration.
            pred_score_thr: predicted instances with lower scores are left out.
            out_file: file to write to, instead of the backends.
        """
        if not is_main_process():
            return
        self.set_image(image)
        if data_sample is not None:
            from trainwright.engine.visualization.samples import draw_sample  # needs torchvision

            meta = self.dataset_meta or {}
            self.set_image(draw_sample(self.get_image(), data_sample, meta, draw_gt, draw_pred, pred_score_thr))
        if show:
            self.show(win_name=name, wait_time=wait_time)
        if out_file is None:
            self.add_image(name, self.get_image(), step)
        else:
            import PIL.Image

            Path(out_file).parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(self.get_image()).save(out_file)

    def close(self) -> None:
        """Close the backends. Writing reopens them."""
        self._write(lambda backend: backend.close(), everywhere=True)

    def _write(self, action: Callable[[BaseVisBackend], None], everywhere: bool = False) -> None:
        """Call every backend, on rank 0 or on all ranks. Log an ``OSError`` instead of raising it."""
        for backend in self._vis_backends.values() if everywhere or is_main_process() else ():
            try:
                action(backend)
            except OSError as error:
                get_logger().warning(f"{type(backend).__name__} cannot write: {error}. Training continues.")

    def _add_backend(self, backend: Mapping[str, Any] | BaseVisBackend) -> None:
        name = ""
        if isinstance(backend, Mapping):
            cfg = dict(backend)
            name = cfg.pop("name", "")
            backend = VISBACKENDS.build({"save_dir": self._save_dir, **cfg})
        if not isinstance(backend, BaseVisBackend):
            hint = "expected a config with 'type', or an instance of BaseVisBackend"
            raise ConfigError("visualizer.vis_backends", f"{backend!r:.60} is not a backend", hint)
        save_dir = signature(type(backend).__init__).parameters.get("save_dir")
        needs_folder = save_dir is not None and save_dir.default is Parameter.empty
        if needs_folder and backend._save_dir is None:
            get_logger().warning(
                f"{type(backend).__name__} is disabled: set save_dir of the backend or of the visualizer"
            )
            return
        name = name or type(backend).__name__
        if name in self._vis_backends:
            raise ValueError(f"two backends have the name {name!r}: set another 'name' for one of them")
        self._vis_backends[name] = backend


def _warn_of_unused(**settings: tuple[Any, Any]) -> None:
    """Warn of settings of MMEngine without effect, unless they have their defaults."""
    for name, (value, default) in settings.items():
        if value != default:
            get_logger().warning(f"Visualizer: {name}={value!r} has no effect, since matplotlib is not used")
