"""Images of samples with annotations and predictions."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trainwright.engine.structures.elements import BaseDataElement
from trainwright.engine.structures.instance_data import InstanceData
from trainwright.engine.structures.rle import decode_columns
from trainwright.engine.visualization import drawing, text
from trainwright.engine.visualization.drawing import Array, array
from trainwright.engine.visualization.text import Rgb

if TYPE_CHECKING:
    from PIL import Image

KINDS = ("label", "score", "caption", "sem_seg", "depth_map", "instances")
"""The fields that can be drawn, after ``gt_`` or ``pred_``."""

_TITLES = {"gt": "ground truth", "pred": "prediction"}
_SMALLEST_SIDE = 224
_TOP = 3
_GAP = 4
_IGNORED = 255
# From near to far: yellow, orange, red, violet, blue, as in the color map "plasma".
_DEPTH_COLORS = ((240, 249, 33), (248, 149, 64), (204, 71, 120), (126, 3, 168), (13, 8, 135))
_CAPTION_COLOR, _RIGHT, _WRONG, _BAR = (32, 33, 36), (126, 211, 133), (255, 138, 128), (64, 84, 112)


def draw_sample(
    image: Array,
    sample: BaseDataElement,
    dataset_meta: Mapping[str, Any],
    draw_gt: bool = True,
    draw_pred: bool = True,
    score_thr: float = 0.3,
) -> Array:
    """Return an image with the annotations and, to the right, the predictions of a sample.

    These fields are drawn: ``*_label``, ``pred_score``, ``gt_caption``, ``*_sem_seg``, ``*_depth_map`` (in colors from
    near to far), and in ``*_instances`` ``bboxes``, ``labels``, ``scores``, ``masks`` and ``keypoints``. Small images
    are enlarged, so that texts are readable. Classes of the image and titles are in a caption above it.

    Args:
        image: RGB, uint8, (height, width, 3).
        sample: annotations and predictions.
        dataset_meta: ``classes`` and ``palette``, if known; ``skeleton_links`` for keypoints.
        draw_gt, draw_pred: whether to draw the fields ``gt_*`` and ``pred_*``.
        score_thr: instances with lower scores are left out.
    """
    factor = max(1, math.ceil(_SMALLEST_SIDE / min(image.shape[:2])))
    canvas = image.repeat(factor, axis=0).repeat(factor, axis=1)
    wanted = [kind for kind, draw in (("gt", draw_gt), ("pred", draw_pred)) if draw]
    kinds = [kind for kind in wanted if any(f"{kind}_{field}" in sample for field in KINDS)]
    if not kinds:
        return canvas
    captions = [_caption(sample, kind, dataset_meta, titled=len(kinds) > 1) for kind in kinds]
    lines = max(map(len, captions))
    panels = [_draw_panel(canvas, sample, kind, dataset_meta, factor, score_thr) for kind in kinds]
    parts = [_with_caption(panel, lines, caption) for panel, caption in zip(panels, captions)]
    if len(parts) > 1:
        parts.insert(1, np.full((len(parts[0]), _GAP, 3), _CAPTION_COLOR, np.uint8))
    return np.concatenate(parts, axis=1)


def _draw_panel(
    image: Array, sample: BaseDataElement, kind: str, meta: Mapping[str, Any], factor: int, score_thr: float
) -> Array:
    sem_seg = sample.get(f"{kind}_sem_seg")
    if sem_seg is not None:
        image = _draw_sem_seg(image, array(getattr(sem_seg, "sem_seg", sem_seg.get("data"))), meta)
    depth_map = sample.get(f"{kind}_depth_map")
    if depth_map is not None:
        scale = sample.get("gt_depth_map") or depth_map  # one scale for both
        image = _draw_depth_map(image, array(depth_map.get("data")), array(scale.get("data")))
    instances = sample.get(f"{kind}_instances")
    if instances is not None:
        image = _draw_instances(image, instances, meta, factor, score_thr)
    return image


# Captions: lines of (text, color, share of the width that is filled).
_Line = tuple[str, Rgb, float]


def _caption(sample: BaseDataElement, kind: str, meta: Mapping[str, Any], titled: bool) -> list[_Line]:
    label, score = sample.get(f"{kind}_label"), sample.get(f"{kind}_score")
    if label is None and (score is None or kind == "gt"):
        found = sample.get(f"{kind}_caption") or ()
        texts = [found] if isinstance(found, str) else found[:_TOP]
        return [(text, (255, 255, 255), 0.0) for text in ([_TITLES[kind]] if titled else []) + list(texts)]
    labels = [] if label is None else array(label).reshape(-1).tolist()
    names = ", ".join(_class_name(index, meta) for index in labels) or "none"
    title = f"{_TITLES[kind]}: {names}" if label is not None else _TITLES[kind]
    truth = sample.get("gt_label")
    color = (255, 255, 255)
    if kind == "pred" and label is not None and truth is not None:
        color = _RIGHT if sorted(array(truth).reshape(-1).tolist()) == sorted(labels) else _WRONG
    lines: list[_Line] = [(title, color, 0.0)]
    if kind == "pred" and score is not None:
        scores = array(score.float()).reshape(-1)
        best = np.argsort(-scores, kind="stable")[:_TOP].tolist()
        lines += [
            (f"{_class_name(i, meta)} {scores[i]:.2f}", (255, 255, 255), float(np.clip(scores[i], 0, 1))) for i in best
        ]
    return lines


def _with_caption(image: Array, lines: int, caption: Sequence[_Line]) -> Array:
    """Return the image below a strip of ``lines`` lines."""
    if not lines:
        return image
    from PIL import Image, ImageDraw

    width, size = image.shape[1], _text_size(image)
    step = round(1.5 * size)
    strip = Image.new("RGB", (width, lines * step + 4), _CAPTION_COLOR)
    draw = ImageDraw.Draw(strip)
    for number, (line, color, share) in enumerate(caption):
        top = 2 + number * step
        if share > 0:
            draw.rectangle((0, top + 1, round(share * (width - 1)), top + step - 2), fill=_BAR)
        short = text.fitted(line, size, width - 12)
        draw.text((6, top + step / 2), short, color, text.font_for(short, size), "lm")
    return np.concatenate([np.asarray(strip), image], axis=0)


def _draw_sem_seg(image: Array, labels: Array, meta: Mapping[str, Any]) -> Array:
    """Draw a segmentation map with class names, resized to the image."""
    plane = _as_large_as(image, labels)
    shown = [int(label) for label in np.unique(plane) if 0 <= label != _IGNORED]
    meta = {**meta, "classes": meta.get("seg_classes") or meta.get("classes")}
    colors = class_colors(meta, max(shown, default=0) + 1)
    for label in shown:
        image = drawing.draw_masks(image, plane == label, colors[label], 0.5)
    size = _text_size(image)
    names = {label: text.fitted(_class_name(label, meta), size, image.shape[1] - size) for label in shown}
    sizes = {label: text.label_size(name, size) for label, name in names.items()}
    # The smallest regions whose names do not hide them are named first.
    areas = {label: int((plane == label).sum()) for label in shown}
    named = sorted((label for label in shown if areas[label] > 1.5 * math.prod(sizes[label])), key=areas.__getitem__)
    centers = [_middle(plane == label) for label in named]
    around = [
        (x - w / 2, y + h / 2, x + w / 2, y + h / 2)
        for (x, y), (w, h) in zip(centers, (sizes[label] for label in named))
    ]
    places = text.place_labels(around, [sizes[label] for label in named], (image.shape[1], image.shape[0]), 0)
    canvas, draw = _canvas(image)
    for label, place in zip(named, places):
        text.draw_label(draw, names[label], place, colors[label], size)
    return np.array(canvas)


def _draw_depth_map(image: Array, depths: Array, scale: Array) -> Array:
    """Return the colors of depths, from those of the nearest to the farthest in ``scale``; unknown ones are black."""
    plane, known = _as_large_as(image, depths), scale[scale > 0]
    nearest, farthest = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    share = ((plane - nearest) / max(farthest - nearest, 1e-9)).clip(0, 1)
    stops = np.linspace(0, 1, len(_DEPTH_COLORS))
    colors = np.stack([np.interp(share, stops, channel) for channel in zip(*_DEPTH_COLORS)], -1)
    drawn: Array = np.where((plane > 0)[..., None], colors, 0).round().astype(np.uint8)
    return drawn


def _as_large_as(image: Array, values: Array) -> Array:
    """Return values of pixels, of shape (..., H, W), resized to an image by their nearest values."""
    plane = values.reshape(values.shape[-2:])
    rows, columns = (np.arange(wanted) * given // wanted for wanted, given in zip(image.shape[:2], plane.shape))
    resized: Array = plane[rows[:, None], columns]
    return resized


def _middle(mask: Array) -> tuple[float, float]:
    """Return (x, y) of the pixel of a mask nearest to the median of its pixels."""
    center = [_median(mask.sum(1)), _median(mask.sum(0))]
    reach = 8
    while True:
        top, left = (max(0, int(value) - reach) for value in center)
        bottom, right = (int(value) + reach + 2 for value in center)
        points = np.argwhere(mask[top:bottom, left:right]) + np.array((top, left))
        distances = np.abs(points - center).sum(1)
        if len(points) and distances.min() <= reach:  # no pixel outside of this window is nearer
            row, column = points[distances.argmin()].tolist()
            return column, row
        reach *= 2


def _median(counts: Array) -> float:
    """Return the median of a coordinate, given the number of pixels at each of its values."""
    below, number = counts.cumsum(), int(counts.sum())
    return float(np.searchsorted(below, [(number + 1) // 2, number // 2 + 1]).mean())


def _draw_instances(
    image: Array, instances: InstanceData, meta: Mapping[str, Any], factor: int, score_thr: float
) -> Array:
    scores = instances.get("scores")
    if scores is not None:
        instances = instances[scores > score_thr]
        scores = instances.get("scores")
    if (number := len(instances)) == 0:
        return image
    labels = instances.get("labels")
    classes = [0] * number if labels is None else array(labels).tolist()
    palette = class_colors(meta, max(classes) + 1)
    colors = [palette[label] for label in classes]
    width = _line_width(image)

    masks = instances.get("masks")
    if masks is not None:
        image = _draw_masks(image, masks, colors, factor, width)
    boxes, names = instances.get("bboxes"), []
    if labels is not None:
        names = [_class_name(label, meta) for label in classes]
        if scores is not None:
            names = [f"{name} {score:.2f}" for name, score in zip(names, array(scores).tolist())]
    if boxes is not None:
        corners = array(getattr(boxes, "tensor", boxes)).astype(np.float64) * factor
        image = _draw_boxes(image, corners, names, colors, scores, width)
    if instances.get("keypoints") is not None:
        image = _draw_keypoints(image, instances, meta, factor, score_thr, width)
    return image


def _draw_boxes(
    image: Array, corners: Array, names: Sequence[str], colors: Sequence[Rgb], scores: Any, width: int
) -> Array:
    """Draw boxes, and above all of them their labels; the best predictions choose the places of theirs first."""
    size, canvas_size = _text_size(image), (image.shape[1], image.shape[0])
    order = range(len(corners)) if scores is None else np.argsort(-array(scores), kind="stable").tolist()
    canvas, draw = _canvas(image)
    inside = corners.clip(0, [*canvas_size, *canvas_size])
    for index in reversed(order):
        x1, y1, x2, y2 = inside[index].round().tolist()
        draw.rectangle((x1, y1, max(x2 - 1, x1), max(y2 - 1, y1)), outline=colors[index], width=width)
    if names:
        names = [text.fitted(name, size, canvas_size[0] - size) for name in names]
        sizes = [text.label_size(name, size) for name in names]
        places = text.place_labels([tuple(inside[i]) for i in order], [sizes[i] for i in order], canvas_size, width)
        for index, place in zip(reversed(order), reversed(places)):
            text.draw_label(draw, names[index], place, colors[index], size)
    return np.array(canvas)


def _draw_masks(image: Array, masks: Any, colors: Sequence[Rgb], factor: int, width: int) -> Array:
    """Draw masks, then their outlines: the pixels that are nearer to an edge than the width of a line.

    Masks given as RLE, those of a large image, are decoded around their pixels only.
    """
    drawn = image.copy()
    planes = masks if isinstance(masks, list) else array(masks).astype(bool)
    for with_outline in (False, True):
        for mask, color in zip(planes, colors):
            plane, first = decode_columns(mask) if isinstance(mask, Mapping) else (mask, 0)
            rows, columns = np.flatnonzero(plane.any(1)), np.flatnonzero(plane.any(0))
            if not rows.size:
                continue
            top, left = max(rows[0] - 1, 0), max(columns[0] - 1, 0)  # with a margin, unless it ends at the border
            part = plane[top : rows[-1] + 2, left : columns[-1] + 2].repeat(factor, axis=0).repeat(factor, axis=1)
            place = np.s_[top * factor :, (first + left) * factor :]
            inside = drawn[place][: part.shape[0], : part.shape[1]]
            if not with_outline:
                inside[...] = drawing.draw_masks(inside, part, [color], 0.5)
                continue
            core = part
            for _ in range(max(1, width - 1)):
                core = _shrunk(core)
            inside[part & ~core] = color
    return drawn


def _shrunk(plane: Array) -> Array:
    """Return a mask without the pixels at its edge; the border of the image does not count as an edge."""
    padded = np.pad(plane, 1, constant_values=True)
    inner: Array = plane & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inner


def _draw_keypoints(
    image: Array, instances: InstanceData, meta: Mapping[str, Any], factor: int, score_thr: float, width: int
) -> Array:
    """Draw the skeletons and, with one color per type, the keypoints, smoothly and with a dark edge."""
    from PIL import Image, ImageDraw

    points = (array(instances["keypoints"])[..., :2].astype(np.float64) + 0.5) * factor - 0.5
    seen = _keypoints_seen(instances, score_thr, points.shape[:2])
    colors = drawing.palette(points.shape[1])
    height, wide = image.shape[:2]
    scale = 2 if height * wide < 4_000_000 else 1
    layer = Image.new("RGBA", (wide * scale, height * scale))
    draw = ImageDraw.Draw(layer)
    radius = (width + 1.5) * scale
    for person, visible in zip((points + 0.5) * scale, seen):
        for start, end in meta.get("skeleton_links") or ():
            if visible[start] and visible[end]:
                line = [tuple(person[start]), tuple(person[end])]
                draw.line(line, fill=(0, 0, 0, 255), width=round((width + 1.5) * scale))
                draw.line(line, fill=(*colors[end], 255), width=round(width * scale))
        for (x, y), color, shown in zip(person.tolist(), colors, visible):
            if shown:
                outer = radius + max(1, width / 2) * scale
                draw.ellipse((x - outer, y - outer, x + outer, y + outer), fill=(0, 0, 0, 255))
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(*color, 255))
    if scale > 1:
        layer = layer.resize((wide, height), Image.Resampling.BOX)
    canvas = Image.fromarray(image)
    canvas.paste(layer, mask=layer)
    return np.array(canvas)


def _keypoints_seen(instances: InstanceData, score_thr: float, shape: tuple[int, ...]) -> Array:
    """Return a mask of keypoints to draw: labeled ones, or those with a score above the threshold."""
    visible, scores = instances.get("keypoints_visible"), instances.get("keypoint_scores")
    if visible is not None:
        return array(visible).reshape(shape) > 0
    return np.ones(shape, bool) if scores is None else array(scores).reshape(shape) > score_thr


def _text_size(image: Array) -> int:
    return round(min(max(math.sqrt(image.shape[0] * image.shape[1]) / 34, 13), 48))


def _line_width(image: Array) -> int:
    return max(2, round(int(min(image.shape[:2])) / 240))


def _canvas(image: Array) -> "tuple[Image.Image, Any]":
    from PIL import Image, ImageDraw

    canvas = Image.fromarray(image)
    return canvas, ImageDraw.Draw(canvas)


def _class_name(label: int, meta: Mapping[str, Any]) -> str:
    classes = meta.get("classes") or ()
    return str(classes[label]) if 0 <= label < len(classes) else str(label)


def class_colors(meta: Mapping[str, Any], number: int) -> list[Rgb]:
    """Return a color for each class, from the ``palette`` of the dataset if it has one."""
    given = meta.get("palette")
    known: Iterable[Any] = given if isinstance(given, list | tuple) else ()  # "random" in some datasets
    colors = [drawing.rgb(tuple(color)) for color in known]
    return colors + drawing.palette(number)[len(colors) :]
