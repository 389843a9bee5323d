"""Compare the step time of vision task models with a hand-written loop around the same network."""

import argparse
import copy
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

import torch
from measure import silenced
from report import table
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from trainwright.datasets import pseudo_collate
from trainwright.engine import DATASETS, MODELS, Runner

CLOCKS: dict[str, Callable[[], float]] = {"wall": perf_counter, "cpu": process_time}


@dataclass(frozen=True)
class Task:
    """A model of a task, and the loss for a hand-written loop.

    Args:
        title: a description for the printed report.
        network: config of the network.
        model: config of the model around the network, without the network itself.
        dataset: config of the dataset; all samples are loaded before training.
        loss_by_hand: computes the loss from the network and a batch of the data loader.
        batch_size: samples per step.
        steps: training steps per round.
        argument: the model's argument for the network.
    """

    title: str
    network: dict[str, Any]
    model: dict[str, Any]
    dataset: dict[str, Any]
    loss_by_hand: Callable[[nn.Module, dict[str, Any]], Tensor]
    batch_size: int = 4
    steps: int = 12
    argument: str = "network"


class Prepared(Dataset[Any]):
    """A dataset of samples that are already loaded."""

    deterministic = True  # the cost of random streams is measured by seeding.py

    def __init__(self, samples: Sequence[Any]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]


class StepTimer:
    """Record the start time of each forward pass of a network."""

    def __init__(self, network: nn.Module, clock: Callable[[], float]) -> None:
        self.times: list[float] = []
        network.register_forward_pre_hook(lambda module, inputs: self.times.append(clock()))

    @property
    def seconds(self) -> float:
        """Mean time between forward passes, without the first quarter of the steps."""
        first = len(self.times) // 4
        return (self.times[-1] - self.times[first]) / (len(self.times) - 1 - first)


OPTIMIZER = {"lr": 1e-4, "momentum": 0.9}


def by_hand(task: Task, network: nn.Module, data: Prepared) -> None:
    """Train in a hand-written loop, with the same optimizer as the Runner."""
    loader = DataLoader(data, task.batch_size, collate_fn=pseudo_collate)
    optimizer = torch.optim.SGD(network.parameters(), **OPTIMIZER)
    network.train()
    for batch in loader:
        loss = task.loss_by_hand(network, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def by_runner(task: Task, network: nn.Module, data: Prepared) -> None:
    """Train with Trainwright and its default hooks, except for checkpoints."""
    with tempfile.TemporaryDirectory() as folder:
        Runner(
            model={**task.model, task.argument: network},
            work_dir=folder,
            # Same order as in the hand-written loop, because the cost of batches differs.
            train_dataloader={
                "dataset": data,
                "batch_size": task.batch_size,
                "sampler": {"type": "DefaultSampler", "shuffle": False},
            },
            train_cfg={"by_epoch": True, "max_epochs": 1},
            optim_wrapper={"optimizer": {"type": "SGD", **OPTIMIZER}},
            default_hooks={"checkpoint": None},
            randomness={"seed": 0},
        ).train()


def measure(task: Task, rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Return the seconds per step of both loops in each round. They alternate, after one warm-up round."""
    dataset = DATASETS.build({**task.dataset, "num_samples": task.steps * task.batch_size})
    data = Prepared([dataset[index] for index in range(len(dataset))])
    torch.manual_seed(0)
    network = MODELS.build(task.network)
    contestants = {"by hand": by_hand, "ours": by_runner}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        names = list(contestants) if number % 2 else list(contestants)[::-1]
        for name in names:
            copied = copy.deepcopy(network)
            timer = StepTimer(copied, clock)
            with silenced():
                contestants[name](task, copied, data)
            if number:
                seconds[name].append(timer.seconds)
    return seconds


def _detection_loss(network: nn.Module, batch: dict[str, Any]) -> Tensor:
    truths = [sample.gt_instances for sample in batch["data_samples"]]
    targets = [{"boxes": truth.bboxes, "labels": truth.labels} for truth in truths]
    losses = network([image / 255 for image in batch["inputs"]], targets)
    return sum(losses.values(), torch.zeros(()))


def _mask_loss(network: nn.Module, batch: dict[str, Any]) -> Tensor:
    truths = [sample.gt_instances for sample in batch["data_samples"]]
    targets = [{"boxes": truth.bboxes, "labels": truth.labels + 1, "masks": truth.masks} for truth in truths]
    losses = network([image / 255 for image in batch["inputs"]], targets)
    return sum(losses.values(), torch.zeros(()))


def _segmentation_loss(network: nn.Module, batch: dict[str, Any]) -> Tensor:
    target = torch.stack([sample.gt_sem_seg.sem_seg[0] for sample in batch["data_samples"]])
    return nn.functional.cross_entropy(network(torch.stack(batch["inputs"]).float()), target, ignore_index=255)


def _classification_loss(network: nn.Module, batch: dict[str, Any]) -> Tensor:
    labels = torch.stack([sample.gt_label for sample in batch["data_samples"]])
    return nn.functional.cross_entropy(network(torch.stack(batch["inputs"]).float()), labels)


def _pose_loss(network: nn.Module, batch: dict[str, Any]) -> Tensor:
    truths = [sample.gt_instances for sample in batch["data_samples"]]
    points, visible = (torch.cat([truth[key] for truth in truths]) for key in ("keypoints", "keypoints_visible"))
    target, weights = _CODEC.encode(points, visible)
    error = (network(torch.stack(batch["inputs"]).float()) - target).square().mean((2, 3))
    return (error * weights).mean()


def _video_loss(network: nn.Module, batch: dict[str, Any]) -> Tensor:
    labels = torch.stack([sample.gt_label for sample in batch["data_samples"]])
    return nn.functional.cross_entropy(network(torch.cat(batch["inputs"]).float()), labels)


_CODEC_CONFIG = {"type": "MSRAHeatmap", "input_size": (64, 64), "heatmap_size": (64, 64), "sigma": 2}
_CODEC = MODELS.build(_CODEC_CONFIG)
_SHAPES = {"type": "Shapes", "size": 96, "pipeline": [{"type": "PackInputs"}]}
_PYRAMID = {
    "type": "FeaturePyramid",
    "body": {"type": "TorchvisionFeatures", "name": "mobilenet_v2", "width_mult": 0.5,
             "layers": ("features.6", "features.13")},
    "out_channels": 64,
}  # fmt: skip
_DETECTOR = {"type": "TorchvisionDetectionModel", "num_classes": 3, "backbone": _PYRAMID, "min_size": 96}

TASKS: dict[str, Task] = {
    "detection": Task(
        title="FCOS with a small MobileNetV2, 4 images of 96x96 pixels",
        network={**_DETECTOR, "name": "fcos"},
        model={"type": "TorchvisionDetector"},
        dataset=_SHAPES,
        loss_by_hand=_detection_loss,
    ),
    "instance_segmentation": Task(
        title="Mask R-CNN with a small MobileNetV2, 4 images of 96x96 pixels",
        network={**_DETECTOR, "name": "maskrcnn", "head_channels": 64, "box_batch_size_per_image": 64},
        model={"type": "TorchvisionDetector"},
        dataset=_SHAPES,
        loss_by_hand=_mask_loss,
    ),
    "segmentation": Task(
        title="a small UNet, 8 images of 64x64 pixels",
        network={"type": "UNet", "num_classes": 4, "base_channels": 16, "depth": 4},
        model={"type": "SemanticSegmentor"},
        dataset={**_SHAPES, "size": 64},
        loss_by_hand=_segmentation_loss,
        batch_size=8,
    ),
    "classification": Task(
        title="ResNet-18, 8 images of 64x64 pixels",
        network={"type": "TorchvisionModel", "name": "resnet18", "num_classes": 3},
        model={"type": "ImageClassifier"},
        dataset={**_SHAPES, "size": 64},
        loss_by_hand=_classification_loss,
        batch_size=8,
        argument="backbone",
    ),
    "pose": Task(
        title="heat maps by a small UNet, 8 crops of 64x64 pixels",
        network={"type": "UNet", "num_classes": 4, "base_channels": 16, "depth": 4},
        model={
            "type": "TopdownPoseEstimator",
            # One more convolution, from 4 to 4 channels, than in the hand-written loop.
            "head": {
                "type": "HeatmapHead",
                "in_channels": 4,
                "out_channels": 4,
                "codec": _CODEC_CONFIG,
                "deconv_out_channels": (),
                "deconv_kernel_sizes": (),
            },
        },
        dataset={
            "type": "TopdownShapes",
            "size": 96,
            "max_shapes": 1,
            "pipeline": [
                {"type": "GetBBoxCenterScale"},
                {"type": "TopdownAffine", "input_size": (64, 64)},
                {"type": "PackInputs"},
            ],
        },
        loss_by_hand=_pose_loss,
        batch_size=8,
        argument="backbone",
    ),
    "video": Task(
        title="a small 3D network, 16 clips of 8 frames of 40x40 pixels",
        network={"type": "SmallC3D", "num_classes": 6},
        model={"type": "Recognizer3D"},
        dataset={
            "type": "MovingShapes",
            "pipeline": [
                {"type": "SampleFrames", "clip_len": 8},
                {"type": "ArrayDecode"},
                {"type": "FormatShape"},
                {"type": "PackInputs"},
            ],
        },
        loss_by_hand=_video_loss,
        batch_size=16,
        argument="backbone",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit status.

    Args:
        argv: the command line arguments; ``sys.argv[1:]`` if None.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--rounds", type=int, default=9, help="measured rounds; default: %(default)s")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu for a busy machine; default: %(default)s")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread")
    for name in arguments.tasks:
        task = TASKS[name]
        seconds = measure(task, arguments.rounds, CLOCKS[arguments.clock])
        print(f"\n{name}: {task.title}\n{task.steps} steps, {arguments.rounds} rounds, {arguments.clock} time")
        print(table(seconds, "by hand", "per step", lambda time: f"{1e3 * time:,.1f} ms"), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
