from pathlib import Path

import numpy as np
from PIL import Image

from trainwright.engine import Config, Runner


def test_the_plane_is_divided_as_the_model_classifies(in_tmp: Path) -> None:
    cfg = Config.fromfile("trainwright::toy/perceptron_two_clouds.py")
    cfg.work_dir = "out"
    cfg.custom_hooks = [dict(type="DecisionBoundaryHook", size=50)]
    runner = Runner.from_cfg(cfg)
    runner.train()
    [file] = Path("out").rglob("decision_boundary*.png")
    image = np.asarray(Image.open(file)).astype(int)
    assert image.shape == (50, 50, 3)
    corners = [image[0, 0], image[0, -1], image[-1, 0], image[-1, -1]]
    assert len({tuple(corner) for corner in corners}) == 2, "a line separates the corners"
