"""Compare operators of ``trainwright.compat.mmcv_ops`` with torchvision's, or with a plain definition, with one thread.

Where an operator has a gradient, a pass forward and back is measured, as mmcv.ops calls it.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from time import perf_counter

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

import torch
import torchvision
from report import table
from torch import Tensor
from torch.nn import functional as F

from trainwright.compat import mmcv_ops

Run = Callable[[], object]


def boxes(count: int, size: float) -> Tensor:
    """Return random boxes (x1, y1, x2, y2) within a square of ``size`` pixels."""
    start = torch.rand(count, 2) * size * 0.8
    return torch.cat([start, start + 4 + torch.rand(count, 2) * size * 0.2], 1)


def nms() -> dict[str, Run]:
    """Suppression among 2,000 boxes."""
    items, scores = boxes(2000, 800), torch.rand(2000)
    return {
        "torchvision": lambda: torchvision.ops.nms(items, scores, 0.5),
        "ours": lambda: mmcv_ops.nms(items, scores, iou_threshold=0.5, offset=0),
    }


def rotated_iou() -> dict[str, Run]:
    """IoU of 1,000 rotated boxes with as many, beside that of upright boxes."""
    items = boxes(1000, 800)
    turned = torch.cat([(items[:, :2] + items[:, 2:]) / 2, items[:, 2:] - items[:, :2], torch.rand(1000, 1) * 3], 1)
    ious = torch.zeros(1000 * 1000)
    return {
        "torchvision (upright)": lambda: torchvision.ops.box_iou(items, items),
        "ours": lambda: mmcv_ops.box_iou_rotated(turned, turned, ious, mode_flag=0, aligned=False),
    }


def roi_align() -> dict[str, Run]:
    """512 boxes in two images of 256 channels, 7 x 7 bins, forward and back."""
    features = torch.rand(2, 256, 50, 68)
    rois = torch.cat([torch.randint(2, (512, 1)).float(), boxes(512, 800)], 1)
    grad = torch.rand(512, 256, 7, 7)
    empty = torch.zeros(0)

    def theirs() -> None:
        leaf = features.clone().requires_grad_()
        torchvision.ops.roi_align(leaf, rois, 7, 1 / 16, 2, True).backward(grad)

    def ours() -> None:
        output, grad_input = torch.zeros_like(grad), torch.zeros_like(features)
        mmcv_ops.roi_align_forward(features, rois, output, empty, empty, 7, 7, 1 / 16, 2, 1, True)
        mmcv_ops.roi_align_backward(grad, rois, empty, empty, grad_input, 7, 7, 1 / 16, 2, 1, True)

    def turned() -> None:
        output, grad_input = torch.zeros_like(grad), torch.zeros_like(features)
        sides = [rois[:, :1], (rois[:, 1:3] + rois[:, 3:]) / 2, rois[:, 3:] - rois[:, 1:3], rois[:, 1:2]]
        rotated = torch.cat(sides, 1)
        mmcv_ops.roi_align_rotated_forward(features, rotated, output, 7, 7, 1 / 16, 2, True, False)
        mmcv_ops.roi_align_rotated_backward(grad, rotated, grad_input, 7, 7, 1 / 16, 2, True, False)

    return {"torchvision": theirs, "ours": ours, "ours (rotated)": turned}


def roi_pool() -> dict[str, Run]:
    """512 boxes in two images of 256 channels, 7 x 7 bins, forward and back."""
    features = torch.rand(2, 256, 50, 68)
    rois = torch.cat([torch.randint(2, (512, 1)).float(), boxes(512, 800)], 1)
    grad = torch.rand(512, 256, 7, 7)

    def theirs() -> None:
        leaf = features.clone().requires_grad_()
        torchvision.ops.roi_pool(leaf, rois, 7, 1 / 16).backward(grad)

    def ours() -> None:
        output, grad_input = torch.zeros_like(grad), torch.zeros_like(features)
        argmax = torch.zeros_like(grad, dtype=torch.int)
        mmcv_ops.roi_pool_forward(features, rois, output, argmax, 7, 7, 1 / 16)
        mmcv_ops.roi_pool_backward(grad, rois, argmax, grad_input, 7, 7, 1 / 16)

    return {"torchvision": theirs, "ours": ours}


def deform_conv() -> dict[str, Run]:
    """Convolution, 3 x 3, of 64 channels on two images of 50 x 68, forward and back."""
    input, weight = torch.rand(2, 64, 50, 68), torch.rand(64, 64, 3, 3)
    offset, grad = torch.randn(2, 18, 50, 68), torch.rand(2, 64, 50, 68)
    settings = dict(kW=3, kH=3, dW=1, dH=1, padW=1, padH=1, dilationW=1, dilationH=1, group=1)
    settings |= dict(deformable_group=1, im2col_step=2)

    def theirs() -> None:
        leaves = [tensor.clone().requires_grad_() for tensor in (input, offset, weight)]
        torchvision.ops.deform_conv2d(*leaves, padding=1).backward(grad)

    def ours() -> None:
        output, buffer = torch.zeros_like(grad), torch.zeros(0)
        grads = [torch.zeros_like(tensor) for tensor in (input, offset, weight)]
        mmcv_ops.deform_conv_forward(input, weight, offset, output, buffer, buffer, **settings)
        mmcv_ops.deform_conv_backward_input(input, offset, grad, *grads[:2], weight, buffer, **settings)
        mmcv_ops.deform_conv_backward_parameters(input, offset, grad, grads[2], buffer, buffer, scale=1, **settings)

    return {"torchvision": theirs, "ours": ours}


def focal_loss() -> dict[str, Run]:
    """Losses of 20,000 boxes and 80 classes, forward and back."""
    logits, target, empty = torch.randn(20000, 80), torch.randint(81, (20000,)), torch.zeros(0)

    def theirs() -> None:
        leaf = logits.clone().requires_grad_()
        hot = F.one_hot(target, 81)[:, :80].float()
        torchvision.ops.sigmoid_focal_loss(leaf, hot).sum().backward()

    def ours() -> None:
        output, grad = torch.zeros_like(logits), torch.zeros_like(logits)
        mmcv_ops.sigmoid_focal_loss_forward(logits, target, empty, output, gamma=2.0, alpha=0.25)
        mmcv_ops.sigmoid_focal_loss_backward(logits, target, empty, grad, gamma=2.0, alpha=0.25)

    return {"torchvision": theirs, "ours": ours}


def ms_deform_attn() -> dict[str, Run]:
    """300 queries, 8 heads of 32 channels, 4 levels of 4 points in two images, forward and back."""
    sizes = [(50, 68), (25, 34), (13, 17), (7, 9)]
    pixels = [rows * columns for rows, columns in sizes]
    value = torch.rand(2, sum(pixels), 8, 32)
    places, weights = torch.rand(2, 300, 8, 4, 4, 2), torch.rand(2, 300, 8, 4, 4)
    grad, shapes, starts = torch.rand(2, 300, 256), torch.tensor(sizes), torch.tensor([0, *pixels[:-1]]).cumsum(0)

    def stacked() -> None:
        leaves = [tensor.clone().requires_grad_() for tensor in (value, places, weights)]
        samples = [
            F.grid_sample(
                part.flatten(2).transpose(1, 2).reshape(16, 32, rows, columns),
                (2 * leaves[1][:, :, :, level] - 1).transpose(1, 2).flatten(0, 1),
                align_corners=False,
            )
            for level, ((rows, columns), part) in enumerate(zip(sizes, leaves[0].split(pixels, 1)))
        ]
        factors = leaves[2].transpose(1, 2).reshape(16, 1, 300, 16)
        sums = (torch.stack(samples, 3).flatten(3) * factors).sum(-1)
        sums.view(2, 256, 300).transpose(1, 2).backward(grad)

    def ours() -> None:
        grads = [torch.zeros_like(tensor) for tensor in (value, places, weights)]
        mmcv_ops.ms_deform_attn_forward(value, shapes, starts, places, weights, 64)
        mmcv_ops.ms_deform_attn_backward(value, shapes, starts, places, weights, grad, *grads, 64)

    return {"grid_sample, stacked": stacked, "ours": ours}


TASKS: dict[str, Callable[[], dict[str, Run]]] = {
    task.__name__: task for task in (nms, rotated_iou, roi_align, roi_pool, deform_conv, focal_loss, ms_deform_attn)
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit status.

    Args:
        argv: the command line arguments; ``sys.argv[1:]`` if None.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="default: all")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    for name in arguments.tasks:
        torch.manual_seed(0)
        print(f"\n{name}: {TASKS[name].__doc__}\n{_measure(TASKS[name](), arguments.rounds)}", flush=True)
    return 0


def _measure(contestants: dict[str, Run], rounds: int) -> str:
    """Return the table of a task. The contestants alternate, and a first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, run in contestants.items():
            begin = perf_counter()
            run()
            if number:
                seconds[name].append(perf_counter() - begin)
    return table(seconds, next(iter(seconds)), "ms", lambda time: f"{time * 1e3:,.1f}")


if __name__ == "__main__":
    raise SystemExit(main())
