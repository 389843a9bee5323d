"""Data elements: fields, conversion, indexing, batches."""

import copy
import pickle
import re

import numpy as np
import pytest
import torch

from trainwright.engine.structures.elements import BaseDataElement
from trainwright.engine.structures.instance_data import InstanceData
from trainwright.engine.structures.label_data import LabelData
from trainwright.engine.structures.pixel_data import PixelData
from trainwright.engine.structures.sample import DataSample, sample_name


class Boxes(BaseDataElement):
    @property
    def proposals(self) -> BaseDataElement:
        return self._proposals

    @proposals.setter
    def proposals(self, value: BaseDataElement) -> None:
        self.set_field(value, "_proposals", dtype=BaseDataElement)

    @proposals.deleter
    def proposals(self) -> None:
        del self._proposals


def element() -> BaseDataElement:
    return BaseDataElement(metainfo={"img_shape": (4, 5), "ids": [1, 2]}, boxes=torch.zeros(3, 4), name="a")


def test_data_and_meta_information_share_one_namespace():
    sample = element()
    assert sample.keys() == ["boxes", "name"]
    assert sample.metainfo_keys() == ["img_shape", "ids"]
    assert sample.all_keys() == ["img_shape", "ids", "boxes", "name"]
    assert sample.metainfo == {"img_shape": (4, 5), "ids": [1, 2]}
    assert dict(sample.items())["name"] == "a"
    assert [*dict(sample.all_items())] == sample.all_keys()
    assert sample.values()[1] == "a"
    assert sample.metainfo_values() == [(4, 5), [1, 2]]
    assert sample.all_values()[:2] == [(4, 5), [1, 2]]
    assert "img_shape" in sample and "boxes" in sample and "other" not in sample
    with pytest.raises(AttributeError, match="img_shape"):
        sample.img_shape = (1, 1)
    with pytest.raises(AttributeError, match="boxes"):
        sample.set_metainfo({"boxes": 1})
    with pytest.raises(AttributeError, match="cannot be set"):
        sample._data_fields = set()
    with pytest.raises(AttributeError, match="cannot be deleted"):
        del sample._metainfo_fields


def test_meta_information_is_deep_copied():
    ids, inner = [1], ([1],)
    sample = BaseDataElement(metainfo={"ids": ids, "inner": inner})
    ids.append(2)
    inner[0].append(2)
    assert sample.ids == [1] and sample.inner == ([1],)
    other = sample.new()
    other.ids.append(3)
    assert sample.ids == [1]


def test_new_and_clone_and_update():
    sample = element()
    assert sample.new(metainfo={"a": 1}).all_keys() == ["a", "boxes", "name"]
    assert sample.new(b=2).all_keys() == ["img_shape", "ids", "b"]
    clone = sample.clone()
    clone.extra = 1
    assert "extra" not in sample and clone.boxes is sample.boxes
    sample.update(BaseDataElement(metainfo={"img_shape": (1, 1)}, name="b"))
    assert sample.img_shape == (1, 1) and sample.name == "b" and len(sample.boxes) == 3


def test_a_shallow_copy_has_its_own_fields():
    sample = element()
    copied = copy.copy(sample)
    copied.extra = 1
    assert "extra" not in sample and copied.boxes is sample.boxes
    deep = copy.deepcopy(sample)
    assert deep.boxes is not sample.boxes and deep.keys() == sample.keys()


def test_get_pop_and_delete():
    sample = element()
    assert sample.get("name") == "a" and sample.get("other") is None and sample.get("other", 1) == 1
    assert sample.pop("name") == "a" and sample.pop("name", None) is None
    assert sample.pop("ids") == [1, 2]
    with pytest.raises(KeyError):
        sample.pop("name")
    del sample.boxes
    del sample["img_shape"]
    assert sample.all_keys() == []


def test_a_property_hides_where_its_value_is_stored():
    sample = Boxes(proposals=BaseDataElement(scores=torch.ones(1)), other=1)
    assert sample.keys() == ["proposals", "other"]
    assert "proposals" in sample
    with pytest.raises((TypeError, ValueError), match="proposals"):
        sample.proposals = torch.ones(1)
    assert sample.pop("proposals").scores == 1
    assert sample.keys() == ["other"]
    sample.proposals = BaseDataElement()
    del sample.proposals
    assert "proposals" not in sample and sample._data_fields == {"other"}


def test_conversions_return_new_elements():
    sample = BaseDataElement(x=torch.ones(2, requires_grad=True), inner=BaseDataElement(y=torch.ones(1)), text="a")
    half = sample.to(torch.float16)
    assert half.x.dtype == half.inner.y.dtype == torch.float16
    assert sample.x.dtype == torch.float32 and half.text == "a"
    assert sample.cpu() is not sample
    assert not sample.detach().x.requires_grad
    arrays = sample.numpy()
    assert isinstance(arrays.x, np.ndarray) and isinstance(arrays.inner.y, np.ndarray)
    tensors = arrays.to_tensor()
    assert torch.equal(tensors.x, torch.ones(2)) and torch.equal(tensors.inner.y, torch.ones(1))
    assert set(sample.to_dict()) == {"x", "inner", "text"}
    assert sample.to_dict()["inner"]["y"] is sample.inner.y


def test_repr_is_a_tree():
    sample = BaseDataElement(metainfo={"size": (2, 2)}, inner=BaseDataElement(x=torch.zeros(2)), d={"k": {"z": 1}})
    assert re.sub("0x[0-9a-f]+", "0x", repr(sample)) == (
        "<BaseDataElement(\n\n    META INFORMATION\n    size: (2, 2)\n\n    DATA FIELDS\n"
        "    inner: <BaseDataElement(\n        \n            META INFORMATION\n        \n"
        "            DATA FIELDS\n            x: tensor([0., 0.])\n"
        "        ) at 0x>\n    d: \n        k: \n            z: 1\n) at 0x>"
    )


def test_elements_can_be_pickled():
    sample = pickle.loads(pickle.dumps(DataSample(metainfo={"a": 1}, gt_label=torch.tensor([3]))))
    assert sample.gt_label.tolist() == [3] and sample.a == 1 and sample.keys() == ["gt_label"]


def instances() -> InstanceData:
    return InstanceData(
        metainfo={"size": (8, 8)},
        boxes=torch.arange(12).view(3, 4),
        scores=np.array([0.1, 0.2, 0.3]),
        names=["a", "b", "c"],
        text="xyz",
        inner=InstanceData(z=torch.tensor([7, 8, 9])),
    )


@pytest.mark.parametrize(
    "index",
    [[0, 2], np.array([0, 2]), np.array([0, 2], dtype=np.int32), torch.tensor([0, 2]), slice(0, 3, 2),
     [True, False, True], np.array([True, False, True]), torch.tensor([True, False, True]),
     torch.tensor([1, 0, 1], dtype=torch.uint8)],
)  # fmt: skip
def test_instances_are_indexed_like_a_tensor(index):
    selected = instances()[index]
    assert len(selected) == 2 and selected.size == (8, 8)
    assert selected.boxes[:, 0].tolist() == [0, 8]
    assert selected.scores.tolist() == [0.1, 0.3]
    assert selected.names == ["a", "c"] and selected.text == "xz"
    assert selected.inner.z.tolist() == [7, 9]


def test_one_instance_keeps_its_dimension():
    assert instances()[1].names == ["b"] and instances()[-1].boxes.tolist() == [[8, 9, 10, 11]]
    assert instances()["text"] == "xyz"
    for index in (3, -4):
        with pytest.raises(IndexError):
            instances()[index]


@pytest.mark.parametrize("index", [[], torch.zeros(3, dtype=torch.bool), torch.zeros(0, dtype=torch.int64)])
def test_an_index_can_select_no_instances(index):
    empty = instances()[index]
    assert len(empty) == 0 and empty.names == [] and empty.text == "" and empty.boxes.shape == (0, 4)


def test_fields_of_instances_must_have_the_same_length():
    data = InstanceData(boxes=torch.zeros(3, 4))
    with pytest.raises((TypeError, ValueError), match="scores .*length.* 2"):
        data.scores = torch.zeros(2)
    with pytest.raises((TypeError, ValueError), match="number .*length"):
        data.number = 1
    with pytest.raises((TypeError, ValueError)):
        data[torch.tensor([True, False])]
    with pytest.raises((TypeError, ValueError)):
        data[torch.zeros(1, 1, dtype=torch.int64)]
    data["scores"] = torch.zeros(3)
    assert len(data) == 3 and len(InstanceData()) == 0


def test_instances_are_concatenated():
    both = InstanceData.cat([instances(), instances()[[1]]])
    assert both.boxes.shape == (4, 4) and both.scores.tolist() == [0.1, 0.2, 0.3, 0.2]
    assert both.names == ["a", "b", "c", "b"] and both.text == "xyzy" and both.inner.z.tolist() == [7, 8, 9, 8]
    with pytest.raises((TypeError, ValueError), match="different fields"):
        InstanceData.cat([instances(), InstanceData(boxes=torch.zeros(1, 4))])
    with pytest.raises((TypeError, ValueError)):
        InstanceData.cat([])


def test_pixels_have_three_dimensions_and_one_size():
    pixels = PixelData(metainfo={"a": 1}, image=torch.arange(24).view(1, 4, 6))
    with pytest.warns(UserWarning, match="mask"):
        pixels.mask = np.ones((4, 6))
    assert pixels.shape == (4, 6) and pixels.mask.shape == (1, 4, 6)
    assert pixels[1:3, 2:4].image.tolist() == [[[8, 9], [14, 15]]]
    assert pixels[1, 2].image.tolist() == [[[8]]] and pixels[-1, -1].image.tolist() == [[[23]]]
    assert pixels[1, 2].a == 1
    with pytest.raises((TypeError, ValueError)):
        pixels.other = torch.ones(1, 4, 5)
    with pytest.raises((TypeError, ValueError)):
        pixels.other = torch.ones(1, 1, 4, 6)
    with pytest.raises((TypeError, ValueError)):
        pixels.other = [1]
    with pytest.raises(TypeError):
        pixels[1]
    assert PixelData().shape is None


def test_labels_to_onehot_and_back():
    onehot = LabelData.label_to_onehot(torch.tensor([0, 3]), 5)
    assert onehot.tolist() == [1, 0, 0, 1, 0]
    assert LabelData.onehot_to_label(onehot).tolist() == [0, 3]
    with pytest.raises(ValueError):
        LabelData.onehot_to_label(torch.tensor([[1, 0]]))
    with pytest.raises(ValueError):
        LabelData.onehot_to_label(torch.tensor([2, 0]))
    with pytest.raises((TypeError, ValueError)):
        LabelData.label_to_onehot(torch.tensor([5]), 5)


def test_a_sample_checks_its_fields():
    sample = DataSample().set_gt_label(3).set_pred_label([1]).set_pred_score([0.25, 0.75])
    assert sample.gt_label.tolist() == [3] and sample.gt_label.dtype == torch.int64
    assert sample.pred_label.tolist() == [1] and sample.pred_score.tolist() == [0.25, 0.75]
    assert DataSample().set_gt_label(np.array([1, 2])).gt_label.tolist() == [1, 2]
    assert DataSample().set_gt_label(torch.tensor(1)).gt_label.tolist() == [1]
    with pytest.raises((TypeError, ValueError), match="gt_label"):
        sample.gt_label = 3
    with pytest.raises((TypeError, ValueError), match="pred_instances"):
        sample.pred_instances = torch.zeros(1)
    with pytest.raises(AttributeError, match="no 'gt_sem_seg'"):
        _ = sample.gt_sem_seg
    assert sample.get("gt_sem_seg") is None
    del sample.gt_label
    assert sample.keys() == ["pred_label", "pred_score"]


def test_samples_are_batched_and_unbatched():
    samples = [
        DataSample(metainfo={"path": f"{i}.png"}, gt_label=torch.tensor([i]), pred_score=torch.full((3,), float(i)))
        for i in range(2)
    ]
    batch = DataSample.batch(samples)
    assert batch.gt_label.tolist() == [0, 1] and batch.pred_score.shape == (2, 3)
    assert batch.path == ["0.png", "1.png"]
    back = batch.unbatch()
    assert [int(sample.gt_label) for sample in back] == [0, 1]
    assert back[1].pred_score.tolist() == [1.0, 1.0, 1.0] and back[1].path == "1.png"
    shared = DataSample(metainfo={"classes": ("a", "b")}, gt_label=torch.arange(3)).unbatch()
    assert [sample.classes for sample in shared] == [("a", "b")] * 3
    assert DataSample().unbatch() == []


def test_samples_that_cannot_be_batched_are_rejected():
    with pytest.raises(ValueError, match="no samples"):
        DataSample.batch([])
    with pytest.raises(ValueError, match="different fields"):
        DataSample.batch([DataSample(gt_label=torch.tensor(1)), DataSample()])
    with pytest.raises(ValueError, match="different shapes"):
        DataSample.batch([DataSample(x=torch.zeros(1)), DataSample(x=torch.zeros(2))])
    with pytest.raises(TypeError, match="gt_instances"):
        DataSample.batch([DataSample(gt_instances=InstanceData())])
    with pytest.raises(ValueError, match="differ in length"):
        DataSample(gt_label=torch.zeros(2), pred_score=torch.zeros(3, 2)).unbatch()


def test_a_sample_is_named_by_its_file_or_else_by_its_number() -> None:
    assert sample_name({"img_path": "a.png", "sample_idx": 3}) == "a.png"
    assert sample_name(DataSample(metainfo={"sample_idx": 3})) == "sample 3"
    assert sample_name({"filename": "a.mp4"}) == "a.mp4"
    assert "number" in sample_name({})
