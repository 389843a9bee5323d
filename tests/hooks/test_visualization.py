"""VisualizationHook in real runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import Scripted, make_runner
from torch import Tensor, nn

from trainwright.engine.errors import ConfigError
from trainwright.engine.registry import HOOKS
from trainwright.engine.structures.sample import DataSample
from trainwright.engine.visualization.inputs import to_image
from trainwright.hooks.visualization import VisualizationHook


class Images(list[Any]):
    """Eight gray images with their labels."""

    metainfo = {"classes": ("cat", "dog")}  # noqa: RUF012  # like other datasets

    def __init__(self, as_dict: bool) -> None:
        images = torch.arange(8 * 100, dtype=torch.uint8).reshape(8, 1, 10, 10)
        for index, image in enumerate(images):
            sample = DataSample(gt_label=torch.tensor(index % 2), metainfo={"img_path": f"folder/{index}.jpg"})
            self.append({"inputs": image, "data_samples": sample} if as_dict else (image, index % 2))


class Guess(nn.Module):
    """A model that always predicts a dog."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def test_step(self, data: Any) -> Any:
        if isinstance(data, dict):
            return [
                sample.set_pred_score(torch.tensor([0.25, 0.75])).set_pred_label(1) for sample in data["data_samples"]
            ]
        labels = torch.as_tensor(data[1])
        scores = torch.tensor([[0.25, 0.75]]).expand(len(labels), 2)
        return DataSample(gt_label=labels, pred_label=torch.ones_like(labels), pred_score=scores)

    val_step = test_step

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        raise NotImplementedError


def drawn(tmp_path: Path, as_dict: bool, **options: Any) -> dict[str, np.ndarray]:
    """Test once and return the images by name."""
    collate = {"type": "pseudo_collate" if as_dict else "default_collate"}
    loader = {"dataset": Images(as_dict), "batch_size": 2, "collate_fn": collate}
    runner = make_runner(
        tmp_path, [{"type": "VisualizationHook", **options}], model=Guess(),
        test_dataloader=loader, test_cfg={}, test_evaluator=Scripted(acc=[1]),
    )  # fmt: skip
    runner.test()
    pictures = {}
    for path in sorted(Path(runner.log_dir, "vis_data", "vis_image").glob("*.png")):
        with Image.open(path) as image:
            pictures[path.name] = np.array(image)
    return pictures


def test_samples_with_paths(tmp_path: Path) -> None:
    pictures = drawn(tmp_path, as_dict=True)
    assert list(pictures) == ["test_0_0.png", "test_2_0.png", "test_4_0.png", "test_6_0.png"]
    # The annotation next to the prediction, each below a caption of three lines.
    assert all(picture.shape == (64 + 230, 230 + 4 + 230, 3) for picture in pictures.values())
    assert (pictures["test_0_0.png"][64 + 207 :, 0:23] == 90).all()  # the pixel at (0, 9)


def test_batched_samples_and_options(tmp_path: Path) -> None:
    pictures = drawn(tmp_path, as_dict=False, interval=2, draw_gt=False)
    assert list(pictures) == ["test_1_0.png", "test_3_0.png"]
    assert all(picture.shape == (64 + 230, 230, 3) for picture in pictures.values())


def test_number_of_images_is_limited(tmp_path: Path) -> None:
    assert len(drawn(tmp_path, as_dict=True, max_images=3)) == 3


def test_name_in_mmengine() -> None:
    assert HOOKS.get("NaiveVisualizationHook") is VisualizationHook


@pytest.mark.parametrize("options", [{"interval": 0}, {"max_images": 0}])
def test_mistakes(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="must be positive, not 0"):
        VisualizationHook(**options)


def test_to_image() -> None:
    gray = torch.tensor([[[0, 7], [200, 255]]], dtype=torch.uint8)
    assert to_image(gray).tolist() == [[[0] * 3, [7] * 3], [[200] * 3, [255] * 3]]
    assert to_image(torch.tensor([[[-1.0, 0.0, 1.0]]])).tolist() == [[[0] * 3, [128] * 3, [255] * 3]]
    assert to_image(torch.ones(3, 2, 2)).tolist() == np.zeros((2, 2, 3)).tolist()
