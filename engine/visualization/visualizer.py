"""The visualizer: draws on images, and hands images, scalars and the config to its backends."""

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
    """Draws on an image, and writes images, scalars and the config of a run to its backends.

    Only the first process writes. Colours are names, letters as in matplotlib, ``"#rrggbb"``, or tuples of
    three numbers from 0 to 255; a list gives each thing its own.

    Example:
        >>> visualizer = Visualizer(image=image)
        >>> visualizer.draw_bboxes(torch.tensor([4, 4, 20, 30])).draw_texts("cat", torch.tensor([4, 4]))
        >>> picture = visualizer.get_image()

    Args:
        name: name of the instance.
        image: image to draw on, RGB, uint8, (height, width, 3).
        vis_backends: backends, or their configs; a key ``name`` makes two of one class possible.
        save_dir: the backends write to the folder ``vis_data`` in it.
        fig_save_cfg: of MMEngine, for matplotlib's figures, of which there are none here: a value gives a warning.
        fig_show_cfg: likewise.

    Raises:
        ValueError: two backends have one name.
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
        for backend in _as_list(vis_backends):
            self._add_backend(backend)
        self._image: Image | None = None
        self.width = self.height = 0
        self._default_font_size = 10.0
        if image is not None:
            self.set_image(image)

    def set_image(self, image: Image) -> None:
        """Set the image to draw on.

        Args:
            image: RGB, (height, width, 3), or grey, (height, width), with numbers from 0 to 255. It is
                copied.
        """
        self._image = drawing.as_image(image)
        self.height, self.width = self._image.shape[:2]
        self._default_font_size = float(max(np.sqrt(self.height * self.width) // 90, 10))

    def get_image(self) -> Image:
        """Return the image with all that was drawn, RGB, uint8, (height, width, 3).

        Raises:
            ValueError: no image was set.
        """
        if self._image is None:
            raise ValueError("there is no image to draw on: call set_image() first")
        return self._image

    def show(
        self,
        drawn_img: Image | None = None,
        win_name: str = "image",
        wait_time: float = 0.0,
        continue_key: str = " ",
        backend: str = "pillow",
    ) -> None:
        """Show an image in a window; where there is no display, writes it to ``vis_data/show`` instead.

        Args:
            drawn_img: the image; by default the one that was drawn on.
            win_name: its name.
            wait_time: of MMEngine, as the next two: the window does not block, so another value gives a warning.
            continue_key: likewise.
            backend: likewise.
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
            get_logger().info(f"no display: the image is in {path}")
        else:
            get_logger().warning("no display and no save_dir: the image is not shown")

    def get_backend(self, name: str) -> BaseVisBackend | None:
        """Return a backend by its name, by default that of its class."""
        return self._vis_backends.get(name)

    def draw_points(
        self,
        positions: Points,
        colors: Colors = "g",
        marker: str | None = None,
        sizes: Points | None = None,
    ) -> Self:
        """Draw points.

        Args:
            positions: (N, 2) or (2,), as (x, y).
            colors: of the points.
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
            texts: one or several.
            positions: (N, 2) or (2,), as (x, y).
            font_sizes: height in pixels; grows with the image by default.
            colors: of the texts.
            vertical_alignments: ``top``, ``center``, ``bottom`` or ``baseline``.
            horizontal_alignments: ``left``, ``center`` or ``right``.
            font_families: ``sans-serif``, or the path of a font file, for letters that the built-in font
                lacks.
            bboxes: frames behind the texts: ``facecolor``, ``edgecolor``, ``alpha``, ``pad``.
            font_properties: accepted for callers of MMEngine: a path of a font file, as ``font_families``.
        """
        lines = [texts] if isinstance(texts, str) else list(texts)
        sizes = self._default_font_size if font_sizes is None else font_sizes
        fonts = font_families if font_properties is None else font_properties
        self._image = drawing.draw_texts(
            self.get_image(),
            lines,
            positions,
            sizes,
            colors,
            vertical_alignments,
            horizontal_alignments,
            fonts,
            bboxes,
        )
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
            x_datas: where each begins and ends, (N, 2) or (2,), as (x1, x2).
            y_datas: likewise, as (y1, y2).
            colors: of the lines.
            line_styles: ``-``, ``--``, ``:`` or ``-.``.
            line_widths: in pixels.

        Raises:
            ValueError: the two differ in shape.
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
            edge_colors: of the lines; ``none`` for no lines.
            line_styles: ``-``, ``--``, ``:`` or ``-.``.
            line_widths: in pixels.
            face_colors: of the insides; ``none`` for none.
            alpha: opacity from 0 to 1.
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
            edge_colors: of the lines; ``none`` for no lines.
            line_styles: ``-``, ``--``, ``:`` or ``-.``.
            line_widths: in pixels.
            face_colors: of the insides; ``none`` for none.
            alpha: opacity from 0 to 1.

        Raises:
            ValueError: these are no boxes.
        """
        if bboxes.shape[-1] != 4:
            raise ValueError(f"boxes are (N, 4), as (x1, y1, x2, y2), not {tuple(bboxes.shape)}")
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
            polygons: one, (M, 2) as (x, y), or a list of them.
            edge_colors: of the lines; ``none`` for no lines.
            line_styles: ``-``, ``--``, ``:`` or ``-.``.
            line_widths: in pixels.
            face_colors: of the insides; ``none`` for none.
            alpha: opacity from 0 to 1.
        """
        several = [polygons] if isinstance(polygons, np.ndarray | Tensor) else list(polygons)
        self._image = drawing.draw_polygons(
            self.get_image(), several, edge_colors, line_styles, line_widths, face_colors, alpha
        )
        return self

    def draw_binary_masks(self, binary_masks: Points, colors: Colors = "g", alphas: float | list[float] = 0.8) -> Self:
        """Overlay colours over the pixels of masks.

        Args:
            binary_masks: bool, (N, height, width) or (height, width), of the image's size.
            colors: of the masks.
            alphas: opacity from 0 to 1.

        Raises:
            ValueError: another dtype or size.
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
        """Return a picture of a feature map.

        Args:
            featmap: (channels, height, width).
            overlaid_image: image to lay it over, RGB, uint8, (height, width, 3); the map takes its size.
            channel_reduction: ``squeeze_mean`` shows the mean of the channels, ``select_max`` the channel
                with the largest sum, None several channels.
            topk: show so many channels, those with the largest sums; if not positive, the map must have 1 or
                3 channels, which are shown as colours.
            arrangement: rows and columns for the channels.
            resize_shape: (height, width) of each map.
            alpha: opacity of the map over the image.

        Raises:
            ValueError: the arguments do not fit the map.
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
        """Write a number."""
        self._write(lambda backend: backend.add_scalar(name, value, step, **kwargs))

    def add_scalars(
        self, scalar_dict: Mapping[str, Any], step: int = 0, file_path: str | None = None, **kwargs: Any
    ) -> None:
        """Write numbers by name; backends that write files also write them to ``file_path``."""
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
        """Draw a sample, its annotations beside its predictions, and writes the picture.

        Args:
            name: name of the picture.
            image: RGB, uint8, (height, width, 3), or grey, (height, width).
            data_sample: what to draw: labels, boxes, masks, keypoints or classes of pixels, whichever it has.
            draw_gt: whether to draw annotations.
            draw_pred: whether to draw predictions.
            show: also show it.
            wait_time: as for :meth:`show`.
            step: epoch or iteration.
            pred_score_thr: predicted instances with lower scores are left out.
            out_file: write to this file instead of to the backends.
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
        """Close the backends. Writing again opens them again."""
        self._write(lambda backend: backend.close(), everywhere=True)

    def _write(self, action: Callable[[BaseVisBackend], None], everywhere: bool = False) -> None:
        """Call every backend, in the main process or everywhere.

        An error of the disk becomes a warning: losing a curve is no reason to lose a run.
        """
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
            hint = "a config with 'type', or an object of a class derived from BaseVisBackend"
            raise ConfigError("visualizer.vis_backends", f"{backend!r:.60} is not a backend", hint)
        save_dir = signature(type(backend).__init__).parameters.get("save_dir")
        needs_folder = save_dir is not None and save_dir.default is Parameter.empty
        if needs_folder and backend._save_dir is None:
            get_logger().warning(f"{type(backend).__name__} is left out: give it or the visualizer a save_dir")
            return
        name = name or type(backend).__name__
        if name in self._vis_backends:
            raise ValueError(f"two backends are called {name!r}: give one of them another 'name'")
        self._vis_backends[name] = backend


def _warn_of_unused(**settings: tuple[Any, Any]) -> None:
    """Warn of settings of MMEngine that are not at their defaults and change nothing here."""
    for name, (value, default) in settings.items():
        if value != default:
            get_logger().warning(
                f"Visualizer: {name}={value!r} changes nothing, images are drawn and shown without matplotlib"
            )


def _as_list(backends: Backends | None) -> list[Mapping[str, Any] | BaseVisBackend]:
    if backends is None:
        return []
    return [backends] if isinstance(backends, Mapping | BaseVisBackend) else list(backends)
