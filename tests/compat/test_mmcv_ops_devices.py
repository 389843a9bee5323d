"""mmcv's own functions on this project's operators, where its Python side asks for a GPU."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

SCRIPT = """
import torch
import trainwright.compat
trainwright.compat.install()
from mmcv.ops import furthest_point_sample, knn, points_in_boxes_all, points_in_boxes_part
points = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [3, 0, 0], [0.5, 0, 0]]])
boxes = torch.tensor([[[9.0, 0, 0, 1, 1, 1, 0], [0.5, 0, -0.5, 1.5, 1, 1, 0]]])
assert not torch.cuda.is_available()
assert furthest_point_sample(points, 3).tolist() == [[0, 2, 1]]
assert knn(2, points, points[:, :1].contiguous()).tolist() == [[[0], [3]]]
assert points_in_boxes_part(points, boxes).tolist() == [[1, 1, -1, 1]]
assert points_in_boxes_all(points, boxes).tolist() == [[[0, 1], [0, 1], [0, 0], [0, 1]]]
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mmcv") is None, reason="mmcv-lite is not installed")
def test_functions_that_ask_for_a_gpu_run_without_one() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT], check=True)
