"""``mmengine.visualization.utils``: checks of arguments, colors, and images of matplotlib's figures."""

from typing import Any

import numpy as np
from torch import Tensor

Image = np.ndarray[Any, Any]


def tensor2ndarray(value: Any) -> Any:
    """Return a tensor as an array on the CPU, and any other value unchanged."""
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else value


def value2list(value: Any, valid_type: Any, expand_dim: int) -> Any:
    """Return ``expand_dim`` times the value if it has a type, and any other value unchanged."""
    return [value] * expand_dim if isinstance(value, valid_type) else value


def check_type(name: str, value: Any, valid_type: Any) -> None:
    """Raise a ``TypeError`` unless the argument ``name`` has a type, or one of several."""
    if not isinstance(value, valid_type):
        raise TypeError(f"{name} must be {valid_type}, not {type(value)}")


def check_length(name: str, value: Any, valid_length: int) -> None:
    """Raise an ``AssertionError`` if the argument ``name`` is a list with fewer items."""
    if isinstance(value, list) and len(value) < valid_length:
        raise AssertionError(f"{name} must have at least {valid_length} items, not {len(value)}")


def check_type_and_length(name: str, value: Any, valid_type: Any, valid_length: int) -> None:
    """Check the type of an argument, and its length if it is a list."""
    check_type(name, value, valid_type)
    check_length(name, value, valid_length)


def color_val_matplotlib(colors: Any) -> Any:
    """Return colors as matplotlib takes them: tuples with numbers from 0 to 1.

    Args:
        colors: a name, a tuple of three numbers from 0 to 255, or a list of these.

    Raises:
        TypeError: anything else.
    """
    if isinstance(colors, str):
        return colors
    if isinstance(colors, list):
        return [color_val_matplotlib(color) for color in colors]
    if not isinstance(colors, tuple):
        raise TypeError(f"a color must be a name or a tuple of three numbers from 0 to 255, not {colors!r}")
    assert len(colors) == 3 and all(0 <= value <= 255 for value in colors), f"{colors} is not an RGB color"
    return tuple(value / 255 for value in colors)


def color_str2rgb(color: str) -> tuple[int, ...]:
    """Return the three numbers from 0 to 255 of one of matplotlib's colors."""
    from matplotlib.colors import to_rgb

    return tuple(int(value * 255) for value in to_rgb(color))


def convert_overlay_heatmap(feat_map: Any, img: Image | None = None, alpha: float = 0.5) -> Image:
    """Return a feature map as an image, blue for its least and red for its greatest value.

    Args:
        feat_map: tensor or array, (height, width), or with 1 or 3 channels before these.
        img: image below the map, RGB, uint8, with the size of the map.
        alpha: opacity of the map from 0 to 1.
    """
    import cv2

    values = tensor2ndarray(feat_map)
    assert values.ndim == 2 or (values.ndim == 3 and values.shape[0] in (1, 3)), f"{values.shape} is not an image"
    values = values.transpose(1, 2, 0) if values.ndim == 3 else values
    scaled: Image = cv2.normalize(values, np.zeros(values.shape), 0, 255, cv2.NORM_MINMAX)
    colored = cv2.applyColorMap(scaled.astype(np.uint8), cv2.COLORMAP_JET)
    picture: Image = cv2.cvtColor(colored, cv2.COLOR_BGR2RGB)
    if img is not None:
        picture = cv2.addWeighted(img, 1 - alpha, picture, alpha, 0)
    return picture


def img_from_canvas(canvas: Any) -> Image:
    """Return what is drawn on matplotlib's ``FigureCanvasAgg``: RGB, uint8, (height, width, 3)."""
    pixels, (width, height) = canvas.print_to_buffer()
    return np.frombuffer(pixels, np.uint8).reshape(height, width, 4)[..., :3].copy()


def wait_continue(figure: Any, timeout: float = 0, continue_key: str = " ") -> int:
    """Show a figure until a key is pressed.

    Args:
        figure: a figure in a window.
        timeout: seconds to wait; 0 for no limit.
        continue_key: the key.

    Returns:
        1 if the window was closed, otherwise 0.
    """
    import matplotlib.pyplot as plt

    if "inline" in plt.get_backend():  # in a notebook
        return 0
    if figure.canvas.manager:
        figure.show()
    outcome: list[int] = []

    def stop(event: Any) -> None:
        if event.name == "close_event":
            outcome.append(1)
        elif event.key == continue_key:
            outcome.append(0)
        else:
            return
        figure.canvas.stop_event_loop()

    connections = [figure.canvas.mpl_connect(name, stop) for name in ("key_press_event", "close_event")]
    try:
        figure.canvas.start_event_loop(timeout)
    finally:
        for connection in connections:
            figure.canvas.mpl_disconnect(connection)
    return max(outcome, default=0)
