"""Every task on a device: the losses, updates and metrics of a CPU, from the same weights and samples."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainwright.engine.config import Config
from trainwright.engine.run.hook import Hook
from trainwright.engine.run.runner import Runner

pytestmark = pytest.mark.gpu

CONFIGS = Path(__file__).parents[2] / "configs"
TASKS = (
    "toy/mlp_xor",
    "classification/lenet_fashion_mnist",
    "classification/resnet18_shapes_multilabel",
    "detection/fcos_mobilenet_v2_shapes",
    "instance_segmentation/mask_rcnn_mobilenet_v2_shapes",
    "multitask/unet_kind_and_parts_shapes",
    "pose/keypoint_rcnn_shapes",
    "pose/topdown_shapes",
    "segmentation/unet_shapes",
    "video/c3d_moving_shapes",
)


class Losses(Hook):
    """Record the losses of all iterations, and disable dropout, which draws from the generator of the device."""

    def __init__(self) -> None:
        self.values: list[dict[str, float]] = []

    def before_train(self, runner: Runner) -> None:
        for module in runner.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.values.append(
            {name: float(value.detach()) for name, value in outputs.items() if isinstance(value, Tensor)}
        )


def build(name: str, folder: Path, device: torch.device, load_from: Path | None) -> tuple[Runner, Losses]:
    cfg = Config.fromfile(CONFIGS / f"{name}.py")
    for mode in ("train", "val", "test"):
        loader = cfg[f"{mode}_dataloader"]
        loader.update(num_batch_per_epoch=2, num_workers=0, batch_size=min(loader.get("batch_size", 4), 4))
        loader.pop("persistent_workers", None)
    cfg.train_cfg = {"by_epoch": False, "max_iters": 2, "val_interval": 2}
    cfg.env_cfg = {"tf32": False, "cudnn_benchmark": False}
    cfg.default_hooks, cfg.custom_hooks, cfg.param_scheduler = {"checkpoint": None}, [], None
    cfg.work_dir, cfg.device, cfg.randomness, cfg.compile = str(folder), str(device), {"seed": 1}, False
    if load_from is not None:
        cfg.load_from = str(load_from)
    runner = Runner.from_cfg(cfg)
    losses = Losses()
    runner.register_hook(losses)
    return runner, losses


@pytest.mark.parametrize("name", TASKS)
def test_losses_and_metrics_are_those_of_a_cpu(
    name: str, device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name.startswith(("detection", "instance_segmentation", "pose")):
        pytest.importorskip("pycocotools")
    randperm = torch.randperm

    def permutation_drawn_on_the_cpu(number: int, *, device: Any = None, **options: Any) -> Tensor:
        return randperm(number, **options).to(device)

    monkeypatch.setattr(torch, "randperm", permutation_drawn_on_the_cpu)  # draws the samples of proposals
    first, _ = build(name, tmp_path / "first", torch.device("cpu"), None)
    first.val()  # which initializes the weights
    start = tmp_path / "start.pth"
    torch.save({"state_dict": first.model.state_dict()}, start)
    runs = {}
    for where in (torch.device("cpu"), device):
        runner, losses = build(name, tmp_path / str(where), where, start)
        scores = runner.val()
        runner.train()
        runs[where.type] = losses.values, scores, runner
    (expected, expected_scores, cpu_run), (found, scores, run) = runs["cpu"], runs[device.type]
    assert next(run.model.parameters()).device.type == device.type
    for before, after in zip(expected[0].items(), found[0].items(), strict=True):
        assert before[0] == after[0] and before[1] == pytest.approx(after[1], rel=2e-3, abs=1e-5)
    assert found[1]["loss"] == pytest.approx(expected[1]["loss"], rel=5e-2, abs=1e-3)
    assert scores.keys() == expected_scores.keys()
    assert all(score == pytest.approx(expected_scores[name], abs=0.05, nan_ok=True) for name, score in scores.items())
    for weight, other in zip(cpu_run.model.parameters(), run.model.parameters(), strict=True):
        tolerance = 0.05 * weight.detach().abs().max().item() + 5e-3
        torch.testing.assert_close(other.cpu(), weight, rtol=0, atol=tolerance)
