"""ReportHook: a report for every task has the numbers of the metrics, and cannot fail a test."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from report_runs import NUM_SAMPLES, run_test, table_of
from tiny_runs import Scripted, log_of, make_runner

from trainwright.engine.errors import ConfigError
from trainwright.engine.evaluation.metric import BaseMetric
from trainwright.engine.evaluation.report import Samples, Table
from trainwright.engine.registry import METRICS
from trainwright.engine.visualization.report_page import write_report
from trainwright.hooks import ReportHook

PACK = {"type": "PackInputs"}
NEEDS_COCO = pytest.mark.skipif(importlib.util.find_spec("pycocotools") is None, reason="needs pycocotools")


def shapes(*keys: str, **options: Any) -> dict[str, Any]:
    pipeline = [{"type": "KeepAnnotations", "keys": list(keys)}, PACK]
    return {"type": "Shapes", "size": 48, "pipeline": pipeline, **options}


def files_of(log_dir: str) -> list[str]:
    return sorted(path.name for path in Path(log_dir, "test_report").iterdir())


def test_classification(tmp_path: Path) -> None:
    metrics = [{"type": "Accuracy"}, {"type": "SingleLabelMetric", "average": None}, {"type": "ConfusionMatrix"}]
    results, log_dir = run_test(str(tmp_path), shapes("gt_label"), metrics)
    assert files_of(log_dir) == [
        "confusion_matrix.csv", "confusion_matrix.png", "index.html", "most_confident_errors.png",
        "most_frequent_confusions.csv", "results_per_class.csv", "worst_predictions.png",
    ]  # fmt: skip
    table, matrix = table_of(log_dir, "results_per_class"), table_of(log_dir, "confusion_matrix")
    for index, name in enumerate(("circle", "square", "triangle")):
        for column, item in enumerate(("precision", "recall", "f1-score")):
            assert float(table[name][column]) == results[f"single-label/{item}_classwise"][index]
        assert [int(count) for count in matrix[name]] == results["confusion_matrix/result"][index]
    assert sum(int(count) for row in list(matrix.values())[1:] for count in row) == NUM_SAMPLES
    page = Path(log_dir, "test_report", "index.html").read_text()
    assert f"{results['accuracy/top1']:.4f}" in page
    assert page.count("<img ") == 3
    with Image.open(Path(log_dir, "test_report", "most_confident_errors.png")) as picture:
        assert picture.width > 4 * 126  # samples 0, 3, 6 and 9


def test_errors_are_sorted_by_score() -> None:
    from trainwright.models.classification.report import single_label_sections

    target, label = torch.tensor([0, 1, 1, 0]), torch.tensor([0, 0, 0, 1])
    score, true_score = torch.tensor([0.9, 0.6, 0.8, 0.7]), torch.tensor([0.9, 0.4, 0.05, 0.02])
    *_, confident, worst = single_label_sections(target, label, score, true_score, {"classes": ("cat", "dog")}, 2)
    assert (confident.indices, worst.indices) == ([2, 3], [3, 2])
    assert confident.captions[0] == "cat 0.80\ntrue: dog 0.05"


def test_any_name_of_a_class_or_file_can_be_written(tmp_path: Path) -> None:
    names = ["\ud83d/../<b>&\x00", "a very long name " * 30, ""]  # a lone surrogate: a byte that is not UTF-8
    table = Table("per class", ["class", "recall"], [[name, 0.5] for name in names])
    samples = Samples("worst", [0, 1, 2], names)
    picture = np.zeros((20, 30, 3), np.uint8)
    page = write_report(
        tmp_path / "report", names[0], {}, [table, samples], {0: (picture, names[0]), 1: (picture, "b")}
    )
    assert page.read_text().count("\\ud83d/../&lt;b&gt;&amp;") == 3
    assert sorted(path.name for path in page.parent.iterdir()) == ["index.html", "per_class.csv", "worst.png"]


def test_labels_without_scores(tmp_path: Path) -> None:
    sections = METRICS.build({"type": "Accuracy"})
    sections.reporting = True
    sections.process(None, {"gt_label": torch.tensor([0, 1, 1]), "pred_label": torch.tensor([0, 1, 0])})
    sections.evaluate(3)
    _, matrix, confusions = sections.report(sections.collected, 5)
    assert matrix.counts == [[1, 0], [1, 1]]
    assert confusions.rows == [["1", "0", 1, 50.0]]


def test_several_labels(tmp_path: Path) -> None:
    pipeline = [{"type": "LabelsFromInstances"}, {"type": "KeepAnnotations", "keys": ["gt_label"]}, PACK]
    metrics = [{"type": "AveragePrecision", "average": None}, {"type": "MultiLabelMetric", "average": None}]
    results, log_dir = run_test(str(tmp_path), shapes(pipeline=pipeline), metrics)
    table = table_of(log_dir, "results_per_class")
    for index, name in enumerate(("circle", "square", "triangle")):
        assert float(table[name][0]) == pytest.approx(results["multi-label/AP_classwise"][index], abs=1e-4)
        assert float(table[name][3]) == results["multi-label/f1-score_classwise"][index]
    pictures = {"precision_and_recall.png", "f1_score_over_threshold.png", "worst_predictions.png"}
    assert pictures <= set(files_of(log_dir))


def test_precision_over_recall_of_several_labels(tmp_path: Path) -> None:
    from trainwright.models.classification.report import multi_label_sections

    scores = torch.tensor([[0.9, 0.1, 0.5], [0.8, 0.3, 0.5], [0.8, 0.9, 0.5], [0.2, 0.9, 0.5]])
    truth = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 1, 0], [1, -1, 0]])
    meta = {"classes": ("cat", "dog", "cow")}
    _, curves, *_ = multi_label_sections(scores, truth, scores >= 0.5, torch.zeros(3), meta, 0)
    assert curves.title == "Precision and recall" and list(curves.curves) == ["mean", "cat", "dog"]
    assert curves.curves["cat"][0] == pytest.approx([index / 100 for index in range(101)])
    cat = {recall: curves.curves["cat"][1][recall] for recall in (0, 33, 34, 66, 67, 100)}
    assert cat == pytest.approx({0: 1, 33: 1, 34: 2 / 3, 66: 2 / 3, 67: 3 / 4, 100: 3 / 4})
    assert curves.curves["dog"][1] == [1.0] * 101  # the last sample is ignored
    assert curves.curves["mean"][1][100] == pytest.approx(7 / 8)
    empty = multi_label_sections(scores, torch.zeros(4, 3), scores >= 0.5, torch.zeros(3), meta, 0)
    assert [section.curves for section in empty[1:]] == [{}, {}]
    write_report(tmp_path, "Test", {}, empty, {})


@NEEDS_COCO
def test_detection_and_instance_segmentation(tmp_path: Path) -> None:
    metric = {"type": "CocoMetric", "metric": ["bbox", "segm"], "classwise": True}
    dataset = shapes("gt_bboxes", "gt_bboxes_labels", "gt_masks")
    results, log_dir = run_test(str(tmp_path), dataset, metric, num_samples=2)
    for kind in ("bbox", "segm"):
        columns, *_ = table = table_of(log_dir, f"results_per_class_{kind}").values()
        for name, row in table_of(log_dir, f"results_per_class_{kind}").items():
            for suffix, value in zip(columns[:-1], row):
                key = f"coco/{kind}_{suffix}" if name == "all" else f"coco/{name}_{kind}_{suffix}"
                if name != "class":
                    assert float(value) == pytest.approx(results[key], nan_ok=True)
        assert columns[:4] == ["mAP", "mAP_50", "mAP_75", "mAP_s"] and len(table) == 5
    matrix = table_of(log_dir, "confusion_matrix_of_boxes")
    counts = np.array([[int(count) for count in row] for name, row in matrix.items() if "/" not in name])
    objects = int(table_of(log_dir, "results_per_class_bbox")["all"][-1])
    assert counts[:3].sum() == objects and counts[3, 3] == 0
    assert counts[3].sum() == counts[:, 3].sum() > 0  # every shifted box is missed and a false positive
    assert {"most_false_positives.png", "precision_and_recall_segm.png"} < set(files_of(log_dir))


def test_matching_of_boxes() -> None:
    from trainwright.models.detection.report import f1_over_score, match_boxes

    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10], [50, 50, 60, 60.0]])
    predicted = boxes, np.array([1, 0, 1, 0]), np.array([0.9, 0.8, 0.7, 0.6])
    truth = (
        np.array([[0, 0, 10, 10], [21, 0, 31, 10], [80, 80, 90, 90], [48, 48, 70, 70.0]]),
        np.array([0, 0, 1, 0]),
        np.array([False, False, False, True]),
    )
    rows, columns, scores = match_boxes(predicted, truth, 2)
    # The prediction of the right class is matched first, although its score is lower; that of a crowd is left out.
    assert list(zip(rows.tolist(), columns.tolist())) == [(2, 1), (0, 0), (0, 1), (1, 2)]
    assert scores.tolist() == [0.9, 0.8, 0.7, 0]
    f1 = f1_over_score(np.array([0.9, 0.5, 0.25]), np.array([True, False, True]), 4)
    assert f1[[0, 25, 26, 50, 90, 91]].tolist() == pytest.approx([4 / 7, 4 / 7, 2 / 6, 2 / 6, 2 / 5, 0])


def test_pascal_voc(tmp_path: Path) -> None:
    metric = {"type": "VOCMetric", "iou_thrs": [0.5, 0.75], "classwise": True}
    results, log_dir = run_test(str(tmp_path), shapes("gt_bboxes", "gt_bboxes_labels"), metric, num_samples=1)
    table = table_of(log_dir, "results_per_class_boxes")
    assert float(table["circle"][0]) == results["pascal_voc/circle_AP50"]
    assert float(table["all"][1]) == pytest.approx(results["pascal_voc/AP75"])
    assert "precision_and_recall_boxes.png" in files_of(log_dir)


def test_segmentation(tmp_path: Path) -> None:
    results, log_dir = run_test(str(tmp_path), shapes("gt_seg_map"), {"type": "IoUMetric", "classwise": True})
    table = table_of(log_dir, "results_per_class_of_pixels")
    matrix = table_of(log_dir, "confusion_matrix_of_pixels")
    counts = np.array([[int(count) for count in row] for name, row in matrix.items() if "/" not in name])
    iou = 100 * counts.diagonal() / (counts.sum(0) + counts.sum(1) - counts.diagonal())
    for index, name in enumerate(("background", "circle", "square", "triangle")):
        assert float(table[name][0]) == results[f"seg/IoU.{name}"] == pytest.approx(iou[index])
    assert counts.sum() == NUM_SAMPLES * 48 * 48
    assert "lowest_iou.png" in files_of(log_dir)


@NEEDS_COCO
def test_pose(tmp_path: Path) -> None:
    steps = [{"type": "GetBBoxCenterScale"}, {"type": "TopdownAffine", "input_size": (64, 64)}, PACK]
    dataset = {"type": "TopdownShapes", "size": 64, "pipeline": steps}
    metrics = [{"type": "PCKAccuracy", "thr": 0.1, "classwise": True}, {"type": "CocoKeypointMetric"}]
    results, log_dir = run_test(str(tmp_path), dataset, metrics, num_samples=2)
    table = table_of(log_dir, "results_per_keypoint")
    for name in ("tip", "left barb", "tail"):
        assert float(table[name][0]) == pytest.approx(results[f"pose/PCK.{name}"])
    assert float(table_of(log_dir, "results_per_class_keypoints")["all"][0]) == results["coco/keypoints_mAP"]
    assert {"largest_errors.png", "lowest_keypoint_similarity.png"} < set(files_of(log_dir))
    assert "results_per_keypoint_coco.csv" in files_of(log_dir)  # of the other metric


def test_video(tmp_path: Path) -> None:
    steps = [{"type": "SampleFrames", "clip_len": 4, "num_clips": 2, "test_mode": True}, {"type": "ArrayDecode"}]
    dataset = {"type": "MovingShapes", "pipeline": [*steps, {"type": "FormatShape"}, PACK]}
    _, log_dir = run_test(str(tmp_path), dataset, {"type": "Accuracy"}, num_samples=1)
    with Image.open(Path(log_dir, "test_report", "worst_predictions.png")) as sheet:
        assert sheet.width >= 4 * 128  # four frames side by side


class Unlucky(BaseMetric):
    """A metric whose report fails."""

    def __init__(self) -> None:
        super().__init__(prefix="unlucky")

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.extend(data_samples)

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        return {"number": float(len(results))}

    def report(self, results: list[Any], num_samples: int) -> Any:
        raise RuntimeError("no paper left")


def test_a_failure_is_logged_and_the_results_are_kept(tmp_path: Path) -> None:
    metric = Unlucky()
    results, log_dir = run_test(str(tmp_path), shapes("gt_label"), metric)
    assert results == {"unlucky/number": NUM_SAMPLES}
    (file,) = Path(log_dir).glob("*.log")
    log = file.read_text()
    assert log.index("unlucky/number: 11.0") < log.index("The test report failed") < log.index("no paper left")
    assert "Traceback" in log and not Path(log_dir, "test_report").exists()
    assert not metric.reporting and metric.collected is None


def test_a_metric_without_report_is_mentioned(tmp_path: Path) -> None:
    runner = make_runner(
        tmp_path, [{"type": "ReportHook"}], test_dataloader={"dataset": torch.arange(4.0).view(4, 1)}, test_cfg={},
        test_evaluator=Scripted(acc=[1]), model=Predictor(),
    )  # fmt: skip
    assert runner.test() == {"acc": 1}
    assert "No test report" in log_of(runner)


class Predictor(torch.nn.Module):
    """A model that predicts its input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def test_step(self, data: Any) -> list[dict[str, Any]]:
        return [{"pred": value} for value in data]

    train_step = val_step = test_step


def test_options() -> None:
    with pytest.raises(ConfigError, match="must not be negative"):
        ReportHook(num_samples=-1)
