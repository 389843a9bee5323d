"""Tests of a model that knows the truth and makes certain mistakes, for reports on every task."""

import csv
from pathlib import Path
from typing import Any

import torch

from trainwright.engine.run.runner import Runner
from trainwright.engine.structures.instance_data import InstanceData
from trainwright.engine.structures.pixel_data import PixelData
from trainwright.engine.structures.sample import DataSample
from trainwright.models.base import BaseModel

NUM_SAMPLES = 11
SEGMENTED: dict[str, Any] = {
    "dataset": {
        "type": "Shapes", "size": 48,
        "pipeline": [{"type": "KeepAnnotations", "keys": ["gt_seg_map", "gt_label"]}, {"type": "PackInputs"}],
    },
    "evaluator": [{"type": "IoUMetric", "classwise": True}, {"type": "Accuracy"}],
    "batch_size": 2,
}  # fmt: skip
"""Arguments of a test of segmentation and classification."""


class Mistaken(BaseModel):
    """A model that predicts the truth, except for a mistake in every third sample: the next class, a shifted object.

    Args:
        num_classes: number of classes.
    """

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.num_classes = num_classes

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = "tensor") -> list[Any]:
        """Return the samples with predictions."""
        return [self._predict(sample) for sample in data_samples]

    def _predict(self, sample: Any) -> Any:
        index = sample.sample_idx
        wrong = index % 3 == 0
        found = DataSample(**dict(sample.items()), metainfo=dict(sample.metainfo_items()))
        if "gt_label" in sample:
            self._classify(found, wrong, index)
        if "gt_sem_seg" in sample:
            plane = sample.gt_sem_seg.sem_seg.clone()
            if wrong:
                plane[:, :20] = (plane[:, :20] + 1) % self.num_classes
            found.pred_sem_seg = PixelData(sem_seg=plane)
        if "gt_instances" in sample:
            found.pred_instances = self._find(sample.gt_instances, wrong, index)
        return found

    def _classify(self, sample: Any, wrong: bool, index: int) -> None:
        label = sample.gt_label
        if label.ndim:  # several labels
            scores = torch.full((self.num_classes,), 0.1)
            scores[label] = 0.9 - 0.01 * index
            sample.pred_score = scores.roll(1) if wrong else scores
        else:
            scores = torch.full((self.num_classes,), 0.01)
            scores[(label + wrong) % self.num_classes] = 0.5 + 0.02 * index
            sample.pred_score = scores
            sample.pred_label = scores.argmax()

    def _find(self, truth: Any, wrong: bool, index: int) -> InstanceData:
        fields = {name: value for name, value in truth.items() if name in ("bboxes", "labels", "masks", "keypoints")}
        found = InstanceData(**fields, scores=torch.linspace(0.9, 0.5, len(truth)) - 0.01 * index)
        if wrong:
            found.labels = (found.labels + 1) % self.num_classes
        if index % 5 == 0:
            found.bboxes = found.bboxes + 15
        if "keypoints" in found:
            found.keypoints = found.keypoints + 4.0 * wrong
            found.keypoint_scores = torch.ones(found.keypoints.shape[:2])
        return found


def run_test(
    folder: str, dataset: dict[str, Any], evaluator: Any, batch_size: int = 4, **hook: Any
) -> tuple[dict[str, Any], str]:
    """Test a :class:`Mistaken`, and return the results and the folder of the logs.

    Args:
        folder: folder of the run.
        dataset: config of the dataset.
        evaluator: metrics, or their configs.
        batch_size: samples per batch.
        **hook: options of ``ReportHook``.
    """
    options: dict[str, Any] = {"seed": 1, "num_samples": NUM_SAMPLES, "test_mode": True}
    classes = {"TopdownShapes": 1, "MovingShapes": 6}.get(dataset["type"], 3)
    if any(step.get("type") == "LoadSegMap" or "gt_seg_map" in step.get("keys", ()) for step in dataset["pipeline"]):
        classes = 4
    runner = Runner(
        model=Mistaken(classes),
        work_dir=folder,
        test_dataloader={
            "dataset": {**options, **dataset},
            "batch_size": batch_size,
            "collate_fn": {"type": "pseudo_collate"},
        },
        test_cfg={},
        test_evaluator=evaluator,
        custom_hooks=[{"type": "ReportHook", **hook}],
        randomness={"seed": 0},
    )
    return runner.test(), runner.log_dir


def table_of(log_dir: str, name: str) -> dict[str, list[str]]:
    """Return the rows of a CSV file in a report, by their first cell."""
    with Path(log_dir, "test_report", f"{name}.csv").open() as file:
        return {row[0]: row[1:] for row in csv.reader(file)}
