"""Video classification: networks, preprocessor, recognizer, training, prediction."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from trainwright.datasets import MovingShapes
from trainwright.engine.config.config import Config
from trainwright.engine.errors import ConfigError
from trainwright.engine.optim.wrapper import OptimWrapper
from trainwright.engine.records.logger import MMLogger
from trainwright.engine.registry import MODELS
from trainwright.engine.run.runner import Runner
from trainwright.engine.structures.sample import DataSample
from trainwright.models import ActionDataPreprocessor, ActionRecogInferencer, Recognizer3D, SmallC3D
from trainwright.tools.cli import main

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = dict(type="SmallC3D", num_classes=3, base_channels=4, depth=2)


def batch(*labels: int, clips: int = 1, size: int = 8) -> dict[str, Any]:
    """Return a batch of random clips with these labels, as returned by the loader."""
    shape = (clips, 3, 4, size, size)
    inputs = [torch.randint(0, 256, shape, dtype=torch.uint8) for _ in labels]
    return {"inputs": inputs, "data_samples": [DataSample().set_gt_label(label) for label in labels]}


# ------------------------------------------------------------------------------------------------------------ networks


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("shape", [(2, 3, 8, 16, 16), (1, 3, 5, 9, 13)])
def test_a_small_network_takes_clips_of_any_size(depth: int, shape: tuple[int, ...]) -> None:
    network = SmallC3D(num_classes=5, base_channels=2, depth=depth)
    assert network(torch.rand(shape)).shape == (shape[0], 5)


@pytest.mark.parametrize("name", ["r3d_18", "mc3_18", "r2plus1d_18", "s3d", "mvit_v1_b", "mvit_v2_s", "swin3d_t"])
def test_networks_of_torchvision(name: str) -> None:
    with torch.device("meta"):
        network = MODELS.build(dict(type="TorchvisionVideoModel", name=name, num_classes=3)).eval()
        assert network(torch.rand(2, 3, 16, 224, 224)).shape == (2, 3)


def test_mistaken_names_of_networks() -> None:
    with pytest.raises(ConfigError, match="no video network 'r3d_8'") as caught:
        Recognizer3D("r3d_8", num_classes=2)
    assert "r3d_18" in str(caught.value)


def test_weights_of_another_number_of_classes_are_left_out_and_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:  # fmt: skip
    cfg = dict(type="TorchvisionVideoModel", name="mc3_18")
    before = MODELS.build(cfg, num_classes=5)
    torch.save({"state_dict": before.state_dict()}, tmp_path / "five.pth")
    logger = MMLogger(name="video weights", logger_name="video weights")
    logger.addHandler(caplog.handler)
    with MMLogger.set_current(logger):
        after = MODELS.build(cfg, num_classes=2, weights=str(tmp_path / "five.pth"))
    assert torch.equal(after.stem[0].weight, before.stem[0].weight)
    assert after.fc.weight.shape[0] == 2
    assert "fc.weight" in caplog.text


# -------------------------------------------------------------------------------------------------------- preprocessor


def test_clips_are_batched_and_normalized() -> None:
    preprocessor = ActionDataPreprocessor(mean=[10, 20, 30], std=[1, 2, 3])
    made = preprocessor(batch(1, 2, clips=2))
    assert (made["inputs"].shape, made["inputs"].dtype) == ((2, 2, 3, 4, 8, 8), torch.float32)
    white = torch.full((1, 3, 1, 1, 1), 40, dtype=torch.uint8)
    assert preprocessor({"inputs": [white]})["inputs"].flatten().tolist() == pytest.approx([30, 10, 10 / 3])
    assert preprocessor({"inputs": white[None]})["data_samples"] is None
    gray = ActionDataPreprocessor(mean=[40], std=[2])({"inputs": [white]})["inputs"]
    assert gray.abs().max() == 0


def test_mistaken_batches() -> None:
    preprocessor = ActionDataPreprocessor()
    with pytest.raises(ValueError, match="clips of different shapes"):
        preprocessor({"inputs": [torch.zeros(1, 3, 4, 8, 8), torch.zeros(1, 3, 4, 8, 9)]})
    with pytest.raises(ValueError, match="FormatShape"):
        preprocessor({"inputs": [torch.zeros(3, 8, 8)]})
    with pytest.raises(TypeError, match="a dict with inputs"):
        preprocessor([torch.zeros(1, 3, 4, 8, 8)])
    with pytest.raises(ValueError, match="must be given together"):
        ActionDataPreprocessor(mean=[1])
    with pytest.raises(ValueError, match="1 or 3 values"):
        ActionDataPreprocessor(mean=[1, 2], std=[1, 2])


def test_videos_are_mixed_with_their_labels() -> None:
    augments = dict(type="Mixup", alpha=1.0)
    preprocessor = ActionDataPreprocessor(num_classes=3, batch_augments=augments)
    data = batch(0, 2)
    torch.manual_seed(0)
    made = preprocessor(data, training=True)
    share = made["data_samples"][0, 0].item()
    assert made["data_samples"].sum(1).tolist() == pytest.approx([1, 1])
    assert 0 < share < 1
    first, second = (clips.float() for clips in data["inputs"])
    torch.testing.assert_close(made["inputs"][0], share * first + (1 - share) * second)
    assert torch.equal(preprocessor(data)["inputs"][0], first)
    with pytest.raises(ValueError, match="one clip per video, not 2"):
        preprocessor(batch(0, 1, clips=2), training=True)


# ---------------------------------------------------------------------------------------------------------- recognizer


def test_a_step_of_training_is_that_of_a_loop_by_hand() -> None:
    torch.manual_seed(0)
    model = Recognizer3D(SMALL)
    by_hand = SmallC3D(**{key: value for key, value in SMALL.items() if key != "type"})  # type: ignore[arg-type]
    by_hand.load_state_dict(model.backbone.state_dict())
    data = batch(0, 2, 1, clips=2)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    clips = torch.cat(data["inputs"]).float()
    loss = F.cross_entropy(by_hand.train()(clips), torch.tensor([0, 0, 2, 2, 1, 1]))
    loss.backward()
    optimizer.step()
    log = model.train().train_step(data, OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)))
    torch.testing.assert_close(log["loss"], loss.detach())
    for ours, theirs in zip(model.backbone.parameters(), by_hand.parameters()):
        torch.testing.assert_close(ours, theirs)


class Means(nn.Module):
    """A network whose logits are the first two values of a clip."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(self, clips: Tensor) -> Tensor:
        self.sizes.append(len(clips))
        return clips.flatten(1)[:, :2]


@pytest.mark.parametrize("views", [None, 2])
def test_scores_are_averaged_over_clips(views: int | None) -> None:
    inputs = torch.randn(2, 3, 1, 1, 1, 2)
    logits = inputs.flatten(2)
    network = Means()
    settings = {} if views is None else dict(test_cfg=dict(max_testing_views=views))
    samples = Recognizer3D(network, **settings)(inputs, [DataSample(), DataSample()], mode="predict")
    torch.testing.assert_close(torch.stack([one.pred_score for one in samples]), logits.softmax(2).mean(1))
    assert network.sizes == ([6] if views is None else [2, 2, 2])
    scores = Recognizer3D(network, average_clips="score")(inputs, mode="predict")
    torch.testing.assert_close(scores.pred_score, logits.mean(1).softmax(1))
    assert torch.equal(scores.pred_label, logits.mean(1).argmax(1))


def test_modes_heads_and_mistaken_arguments() -> None:
    head = dict(type="LinearClsHead", num_classes=5, in_channels=2)
    model = Recognizer3D(Means(), cls_head=head)
    assert model(torch.rand(2, 3, 1, 1, 1, 2)).shape == (2, 3, 5)
    with pytest.raises(ValueError, match="mode must be"):
        model(torch.rand(2, 3, 1, 1, 1, 2), mode="train")
    with pytest.raises(ConfigError, match="average_clips"):
        Recognizer3D(SMALL, average_clips="mean")
    with pytest.raises(ConfigError, match="test_cfg.views"):
        Recognizer3D(SMALL, test_cfg=dict(views=3))
    by_name = Recognizer3D("mc3_18", num_classes=4)
    assert by_name.backbone.fc.out_features == 4


def test_the_loss_of_a_validation() -> None:
    predictions, losses = Recognizer3D(SMALL).eval().val_step(batch(0, 1, clips=2), with_loss=True)
    assert list(losses) == ["loss"]
    assert [one.pred_score.shape for one in predictions] == [(3,), (3,)]


# ------------------------------------------------------------------------------------------------- training, prediction


def train(name: str, work_dir: Path, **changes: Any) -> dict[str, float]:
    cfg = Config.fromfile(CONFIGS / name)
    cfg.merge_from_dict({"work_dir": str(work_dir), **changes})
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner.test()


SHORT = {
    "max_epochs": 5, "train_cfg.max_epochs": 5, "param_scheduler.total_steps": 5,
    "model.backbone.num_classes": 2, "model.backbone.base_channels": 8, "train_dataloader.dataset.num_samples": 640,
    **{f"{split}_dataloader.dataset.motions": ["left", "right"] for split in ("train", "val", "test")},
    **{f"{split}_dataloader.dataset.num_samples": 60 for split in ("val", "test")},
    "visualizer": dict(type="Visualizer", vis_backends=[]),
}  # fmt: skip


@pytest.mark.long
def test_a_short_training_beats_chance_by_far_and_its_checkpoint_predicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    av = pytest.importorskip("av")
    results = train("video/c3d_moving_shapes.py", tmp_path, **SHORT)
    assert results["accuracy/top1"] > 80  # chance: 50
    (checkpoint,) = tmp_path.glob("best_accuracy_top1_*.pth")
    videos = MovingShapes(num_samples=2, motions=("left", "right"), seed=7)
    array = videos[0]["array"]
    file, folder = tmp_path / "videos/a.mkv", tmp_path / "frames"
    file.parent.mkdir()
    folder.mkdir()
    with av.open(str(file), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width = stream.height = 40
        stream.pix_fmt = "bgr0"
        for index, picture in enumerate(array):
            Image.fromarray(picture).save(folder / f"{index:03}.png")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    inferencer = ActionRecogInferencer(checkpoint, show_progress=False)
    tensor = torch.from_numpy(array).permute(0, 3, 1, 2)
    answer = inferencer([str(file), str(folder), array, tensor], batch_size=3, out_dir=tmp_path / "out")
    scores = [one["pred_scores"] for one in answer["predictions"]]
    np.testing.assert_allclose(scores, [scores[2]] * 4, atol=1e-5)
    assert answer["predictions"][0]["filename"] == str(file)
    assert answer["predictions"][0]["pred_class"] in ("left", "right")
    assert len(list((tmp_path / "out").glob("*.png"))) == 4
    assert [one["filename"] for one in inferencer(str(file.parent))["predictions"]] == [str(file)]
    with pytest.raises(ValueError, match="a video must be a path"):
        inferencer(array[0])
    options = ["model.backbone.num_classes=2", "model.backbone.base_channels=8"]
    command = ["predict", "video/c3d_moving_shapes", str(checkpoint), str(file.parent), str(folder)]
    out = tmp_path / "predicted"
    assert main([*command, "--out-dir", str(out), "--cfg-options", *options]) == 0
    entries = json.loads((out / "predictions.json").read_text())
    assert [entry["input"] for entry in entries] == [str(file), str(folder)]
    np.testing.assert_allclose(entries[0]["pred_scores"], scores[0], atol=1e-5)
    best = entries[0]["pred_class"]
    assert f"{file}: {best} {max(scores[0]):.3f}, " in capsys.readouterr().out
    assert {picture.name for picture in out.glob("*.png")} == {"a.png", "frames.png"}


def test_strips_of_clips_are_browsed(in_tmp: Path) -> None:
    options = ["train_dataloader.dataset.num_samples=2"]
    command = ["browse-dataset", "video/c3d_moving_shapes", "--out-dir", "seen", "--cfg-options", *options]
    assert main(command) == 0
    width, height = Image.open("seen/000000.png").size
    assert (width, height) == (8 * 252, 252 + 36)  # eight frames, and a caption


@pytest.mark.slow
def test_the_shipped_config_reaches_its_score(tmp_path: Path) -> None:
    assert train("video/c3d_moving_shapes.py", tmp_path)["accuracy/top1"] > 90
