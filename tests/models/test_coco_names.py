"""The classes and keypoints of CocoMetric's annotation file are matched by name."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from trainwright.engine.errors import DataError
from trainwright.engine.structures.instance_data import InstanceData
from trainwright.engine.structures.sample import DataSample

pytest.importorskip("pycocotools")

from trainwright.models import CocoKeypointMetric, CocoMetric  # needs pycocotools

BOXES = [[2.0, 2.0, 20.0, 20.0], [30.0, 30.0, 60.0, 60.0]]
META: dict[str, Any] = {"classes": ("cat", "dog")}


def write(path: Path, ids: dict[str, int], **extra: Any) -> str:
    """Write one image with a cat and a dog, as far as they have ids."""
    annotations = [
        {"id": number, "image_id": 1, "category_id": ids[name], "bbox": [x, y, right - x, bottom - y], "area": 324, "iscrowd": 0, **extra}
        for number, (name, (x, y, right, bottom)) in enumerate(zip(("cat", "dog"), BOXES), 1)
        if name in ids
    ]  # fmt: skip
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    path.write_text(json.dumps({"images": [{"id": 1}], "annotations": annotations, "categories": categories}))
    return str(path)


def scores(file: str, meta: dict[str, Any] = META) -> dict[str, Any]:
    metric = CocoMetric(ann_file=file, classwise=True)
    metric.dataset_meta = meta
    metric.check_dataset_meta()
    labels = torch.tensor([meta["classes"].index(name) for name in ("cat", "dog")])
    found = InstanceData(bboxes=torch.tensor(BOXES), labels=labels, scores=torch.tensor([0.9, 0.8]))
    metric.process(None, [DataSample(metainfo={"img_id": 1}, pred_instances=found).to_dict()])
    return metric.evaluate(1)


@pytest.mark.parametrize("ids", [{"cat": 1, "dog": 2}, {"cat": 2, "dog": 1}, {"cow": 1, "dog": 9, "cat": 4}])
@pytest.mark.parametrize("classes", [("cat", "dog"), ("dog", "cat"), ("ant", "dog", "cat")])
def test_any_ids_and_any_order(tmp_path: Path, ids: dict[str, int], classes: tuple[str, ...]) -> None:
    found = scores(write(tmp_path / "a.json", ids), {"classes": classes})
    assert found["coco/bbox_mAP"] == pytest.approx(1)
    assert found["coco/cat_bbox_mAP"] == found["coco/dog_bbox_mAP"] == pytest.approx(1)


@pytest.mark.parametrize("ids", [{"Cat": 1, "dog": 2}, {"cow": 1, "horse": 2}])
def test_other_names_are_refused(tmp_path: Path, ids: dict[str, int]) -> None:
    metric = CocoMetric(ann_file=write(tmp_path / "a.json", ids))
    metric.dataset_meta = META
    with pytest.raises(DataError, match="only the former has 'cat'"):
        metric.check_dataset_meta()


def test_a_class_that_the_file_lacks_has_no_objects(tmp_path: Path) -> None:
    found = scores(write(tmp_path / "a.json", {"dog": 7}))
    assert found["coco/bbox_mAP"] == found["coco/dog_bbox_mAP"] == pytest.approx(1)
    assert found["coco/cat_bbox_mAP"] != found["coco/cat_bbox_mAP"]  # NaN


@pytest.mark.parametrize(
    ("listed", "expected"), [(("a", "b", "c"), 1.0), (("c", "a", "b"), 1.0), (("a", "b", "d"), None)]
)
def test_keypoints_of_the_file_are_matched_by_name(tmp_path: Path, listed: tuple[str, ...], expected: Any) -> None:
    points = {"a": [2.0, 2.0], "b": [10.0, 5.0], "c": [18.0, 18.0], "d": [1.0, 1.0]}
    flat = [value for name in listed for value in (*points[name], 2)]
    file = write(tmp_path / "a.json", {"cat": 1}, keypoints=flat, num_keypoints=3)
    content = json.loads(Path(file).read_text())
    content["categories"][0]["keypoints"] = listed
    Path(file).write_text(json.dumps(content))
    metric = CocoKeypointMetric(ann_file=file)
    metric.dataset_meta = {"classes": ("cat",), "keypoints": ("a", "b", "c")}
    with pytest.raises(DataError, match="requires sigmas"):
        metric.check_dataset_meta()
    metric.dataset_meta["sigmas"] = (0.05,) * 3
    if expected is None:
        with pytest.raises(DataError, match="keypoints of the dataset .* only the former has 'c'"):
            metric.check_dataset_meta()
        return
    metric.check_dataset_meta()
    found = InstanceData(
        bboxes=torch.tensor(BOXES[:1]), labels=torch.tensor([0]), scores=torch.tensor([0.9]),
        keypoints=torch.tensor([[points[name] for name in "abc"]]), keypoint_scores=torch.ones(1, 3),
    )  # fmt: skip
    metric.process(None, [DataSample(metainfo={"img_id": 1}, pred_instances=found).to_dict()])
    assert metric.evaluate(1)["coco/keypoints_mAP"] == pytest.approx(expected)
