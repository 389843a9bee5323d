"""Copies to an accelerator: on which stream, and what waits for them. The copies themselves: tests/gpu."""

import pytest
import torch
from fake_accelerator import pretend_accelerator

from trainwright.engine.accelerator import has_own_memory, overlapping_copies
from trainwright.engine.structures.instance_data import InstanceData
from trainwright.engine.structures.sample import DataSample

META = torch.device("meta")
IMAGE = torch.zeros(3, 200, 200, dtype=torch.uint8)


def test_devices_with_their_own_memory() -> None:
    assert has_own_memory(torch.device("cuda", 1)) and has_own_memory(torch.device("xpu"))
    assert not has_own_memory(torch.device("cpu")) and not has_own_memory(torch.device("mps"))


def test_large_tensors_are_copied_on_another_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    log = pretend_accelerator(monkeypatch)
    with overlapping_copies(META) as copy:
        image, label = copy(IMAGE), copy(torch.zeros(2))
        assert image.device == label.device == META
        assert log == [
            "copies: (3, 200, 200), non_blocking=True",
            "kept for main",
            "main: (2,), non_blocking=True",
        ]
    assert log[3:] == ["main waits for copies"]


def test_nothing_waits_for_small_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    log = pretend_accelerator(monkeypatch)
    with overlapping_copies(META) as copy:
        copy(torch.zeros(2))
    assert log == ["main: (2,), non_blocking=True"]


def test_the_stream_is_restored_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    log = pretend_accelerator(monkeypatch)
    monkeypatch.setattr(torch.Tensor, "to", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError), overlapping_copies(META) as copy:
        copy(IMAGE)
    assert torch.accelerator.current_stream(META).name == "main" and log == []  # type: ignore[attr-defined]


def test_masks_inside_data_elements_are_copied_on_another_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    log = pretend_accelerator(monkeypatch)
    instances = InstanceData(
        boxes=torch.zeros(2, 4), masks=torch.zeros(2, 200, 200, dtype=torch.bool), names=["a", "b"]
    )
    sample = DataSample(metainfo={"img_id": 7}, gt_instances=instances, path="x.png")
    with overlapping_copies(META) as copy:
        moved = copy(sample)
    assert moved.gt_instances.masks.device == moved.gt_instances.boxes.device == META
    assert (moved.img_id, moved.path, moved.gt_instances.names) == (7, "x.png", ["a", "b"])
    assert sample.gt_instances.masks.device.type == "cpu"
    assert "copies: (2, 200, 200), non_blocking=True" in log and "main: (2, 4), non_blocking=True" in log


def test_sparse_tensors_are_copied_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    log = pretend_accelerator(monkeypatch)
    with overlapping_copies(META) as copy:
        copy(torch.eye(2).to_sparse())
    assert log == ["main: (2, 2), non_blocking=True"]


def test_tensors_inside_data_elements_are_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    log = pretend_accelerator(monkeypatch)
    sample = DataSample(
        metainfo={"img_id": 7}, gt_label=torch.tensor([1]), gt_instances=InstanceData(boxes=torch.ones(2, 4))
    )
    pinned = torch.utils.data._utils.pin_memory.pin_memory({"inputs": [IMAGE], "data_samples": [sample]})
    assert sorted(log) == ["pin (1,)", "pin (2, 4)", "pin (3, 200, 200)"]
    (copied,) = pinned["data_samples"]
    assert type(copied) is DataSample and copied.img_id == 7 and copied.gt_label.tolist() == [1]
    assert copied.gt_instances.boxes.tolist() == [[1] * 4] * 2
    assert copied.gt_label is not sample.gt_label
