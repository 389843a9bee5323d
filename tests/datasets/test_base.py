"""Expected values are those of MMEngine 0.10.7, if it has the feature."""

import json
import multiprocessing
import pickle
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from trainwright.datasets import BaseDataset, Compose, force_full_init
from trainwright.engine.errors import UnknownTypeError


class Annotated(BaseDataset):
    METAINFO: ClassVar = {"dataset_type": "from the class", "classes": ("a", "b")}


@pytest.fixture
def files(tmp_path):
    """Write the annotation file of six samples and return the arguments of their dataset."""
    annotations = {
        "metainfo": {"task": "from the file", "dataset_type": "from the file"},
        "data_list": [{"img_path": f"{i}.jpg", "y": i} for i in range(6)],
    }
    (tmp_path / "ann.json").write_text(json.dumps(annotations))
    return {"ann_file": "ann.json", "data_root": str(tmp_path), "data_prefix": {"img_path": "imgs"}}


def numbers(dataset):
    return [dataset.get_data_info(i)["y"] for i in range(len(dataset))]


def keep_from_four(sample):
    return sample if sample["y"] >= 4 else None


def test_argument_goes_before_class_goes_before_file(files):
    dataset = Annotated(metainfo={"classes": ("c",)}, **files)
    assert dataset.metainfo == {"dataset_type": "from the class", "classes": ("c",), "task": "from the file"}
    dataset.metainfo["task"] = "changed"
    assert dataset.metainfo["task"] == "from the file", "metainfo is a copy"
    assert Annotated.METAINFO == {"dataset_type": "from the class", "classes": ("a", "b")}


def test_metainfo_may_name_a_text_file(tmp_path):
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    dataset = BaseDataset(metainfo={"classes": str(tmp_path / "classes.txt"), "task": "x" * 5000}, lazy_init=True)
    assert dataset.metainfo == {"classes": ["cat", "dog"], "task": "x" * 5000}


def test_paths_are_joined(files, tmp_path):
    dataset = Annotated(**files)
    assert dataset.ann_file == str(tmp_path / "ann.json")
    assert dataset[-1] == {"img_path": str(tmp_path / "imgs" / "5.jpg"), "y": 5, "sample_idx": 5}
    elsewhere = Annotated(**{**files, "data_prefix": {"img_path": "s3://bucket/imgs"}})
    assert elsewhere[0]["img_path"] == "s3://bucket/imgs/0.jpg"
    absolute = BaseDataset(ann_file="/a.json", data_root="/r", data_prefix={"img_path": "/abs"}, lazy_init=True)
    assert (absolute.ann_file, absolute.data_prefix) == ("/a.json", {"img_path": "/abs"})


@pytest.mark.parametrize("serialize_data", [True, False])
@pytest.mark.parametrize(
    "indices, expected",
    [
        (2, [0, 1]),
        (-2, [4, 5]),
        (6, [0, 1, 2, 3, 4, 5]),
        (-6, [0, 1, 2, 3, 4, 5]),
        (99, [0, 1, 2, 3, 4, 5]),
        (0, []),
        ([], []),
        ([0, -1, 3], [0, 5, 3]),
        (range(1, 6, 2), [1, 3, 5]),
    ],
)
def test_subsets(files, indices, expected, serialize_data):
    whole = Annotated(serialize_data=serialize_data, **files)
    part = whole.get_subset(indices)
    assert numbers(part) == expected
    assert numbers(whole) == [0, 1, 2, 3, 4, 5]
    assert type(part) is Annotated and part.metainfo == whole.metainfo
    whole.get_subset_(indices)
    assert numbers(whole) == expected
    assert numbers(Annotated(serialize_data=serialize_data, indices=indices, **files)) == expected


def test_a_subset_shares_nothing_with_the_whole(files):
    whole = Annotated(serialize_data=False, **files)
    whole.get_subset([0]).data_list[0]["y"] = -1
    assert numbers(whole)[0] == 0


@pytest.mark.parametrize("serialize_data", [True, False])
def test_bad_positions_are_refused(files, serialize_data):
    dataset = Annotated(serialize_data=serialize_data, **files)
    for index in (6, -7):
        with pytest.raises(IndexError, match=f"sample {index} is out of range .* 6"):
            dataset[index]
        with pytest.raises(IndexError):
            dataset.get_subset([index])
    with pytest.raises(TypeError, match=r"indices must be .*, not 1\.5"):
        dataset.get_subset(1.5)


def test_annotations_lie_in_one_array(files):
    dataset = Annotated(**files)
    assert dataset.data_list == []
    assert (dataset.data_bytes.dtype, dataset.data_address.dtype) == (np.uint8, np.int64)
    assert len(dataset.data_address) == 6
    assert dataset.data_address[-1] == dataset.data_bytes.size == dataset.data_bytes.nbytes
    assert dataset.data_bytes.base is not None, "the bytes are joined once and not copied again"
    first = pickle.loads(dataset.data_bytes[: dataset.data_address[0]].tobytes())
    assert first["y"] == 0
    dataset.get_data_info(0)["y"] = -1
    assert dataset.get_data_info(0)["y"] == 0, "an annotation is a copy"


def _pages_shared_after_reading(dataset, connection):
    for i in range(len(dataset)):
        dataset.get_data_info(i)
    connection.send((dataset.data_bytes.ctypes.data, _private_dirty(dataset.data_bytes.ctypes.data)))


def _private_dirty(address):
    """Return the private dirty size in kB of the memory mapping at an address."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            start, end = (int(part, 16) for part in words[0].split("-"))
            inside = start <= address < end
        elif inside and words[0] == "Private_Dirty:":
            return int(words[1])
    raise AssertionError("no such mapping")


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux")
def test_workers_read_the_annotations_without_copying_them():
    class Long(BaseDataset):
        def load_data_list(self):
            return [{"text": "x" * 1000, "i": i} for i in range(20_000)]

    dataset = Long()
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe()
    worker = context.Process(target=_pages_shared_after_reading, args=(dataset, sender))
    worker.start()
    address, copied = receiver.recv()
    worker.join()
    assert address == dataset.data_bytes.ctypes.data
    assert dataset.data_bytes.nbytes > 20_000_000
    # Other data in the same mapping is written to, but the annotations are not.
    assert copied < 10_000, f"{copied} kB of 20 MB were copied by reading"


def test_a_rejected_sample_is_replaced(files):
    np.random.seed(0)
    tried = []

    def pipeline(sample):
        tried.append(sample["y"])
        return keep_from_four(sample)

    assert Annotated(pipeline=[pipeline], **files)[0]["y"] == 4
    assert tried == [0, 4], "np.random decides, as in MMEngine"


def test_a_sample_that_cannot_be_replaced_is_an_error(files):
    with pytest.raises(RuntimeError, match="sample 0 .*test_mode"):
        Annotated(test_mode=True, pipeline=[keep_from_four], **files)[0]
    assert Annotated(test_mode=True, pipeline=[keep_from_four], **files)[4]["y"] == 4
    with pytest.raises(RuntimeError, match="sample 0 .* 3 random"):
        Annotated(max_refetch=3, pipeline=[lambda sample: None], **files)[0]


def test_lazy_init_loads_on_first_use(files, caplog):
    dataset = Annotated(lazy_init=True, **files)
    assert not dataset._fully_initialized
    assert "task" not in dataset.metainfo
    assert len(dataset) == 6
    assert dataset._fully_initialized
    assert dataset.metainfo["task"] == "from the file"
    data_bytes = dataset.data_bytes
    dataset.full_init()
    assert dataset.data_bytes is data_bytes, "full_init is idempotent"
    assert Annotated(lazy_init=True, **files)[3]["y"] == 3


def test_force_full_init_works_for_any_class():
    class Late:
        count = 0

        def full_init(self):
            self.count += 1

        @force_full_init
        def size(self, factor):
            return factor * self.count

    late = Late()
    assert (late.size(3), late.size(factor=4)) == (3, 4)
    with pytest.raises(AttributeError, match="int has no method full_init"):
        Late.size(5, 1)


def test_filter_and_parse_are_open_to_subclasses(files):
    class Twice(BaseDataset):
        def parse_data_info(self, raw_data_info):
            return [dict(raw_data_info, half=half) for half in (0, 1)]

        def filter_data(self):
            return [info for info in self.data_list if info["y"] >= self.filter_cfg["least"]]

    dataset = Twice(filter_cfg={"least": 4}, **files)
    assert [(info["y"], info["half"]) for info in dataset] == [(4, 0), (4, 1), (5, 0), (5, 1)]
    assert numbers(Twice(filter_cfg={"least": 4}, indices=-1, **files)) == [5], "indices apply after filtering"


def test_an_empty_dataset_has_length_zero():
    class Nothing(BaseDataset):
        def load_data_list(self):
            return []

    assert len(Nothing()) == 0


def test_yaml_annotations(tmp_path):
    (tmp_path / "ann.yaml").write_text("metainfo: {}\ndata_list: [{img_path: a.png}]\n")
    assert BaseDataset(ann_file=tmp_path / "ann.yaml")[0] == {"img_path": "a.png", "sample_idx": 0}


@pytest.mark.parametrize(
    "name, text, error, message",
    [
        ("a.json", "[]", TypeError, "a.json: expected a dict .*metainfo and data_list, got a list"),
        ("a.json", '{"data_list": []}', ValueError, "a.json: missing key metainfo"),
        ("a.json", "{}", ValueError, "a.json: missing key data_list and metainfo"),
        ("a.csv", "", TypeError, r"csv"),
        (
            "a.json",
            '{"metainfo": {}, "data_list": [{"img": 1}]}',
            ValueError,
            "a.json: .*'img_path'.* 'img'",
        ),
    ],
)
def test_bad_annotation_files_are_named(tmp_path, name, text, error, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(error, match=message):
        BaseDataset(ann_file=tmp_path / name)


def test_bad_arguments_are_named(files):
    class Wrong(BaseDataset):
        def parse_data_info(self, raw_data_info):
            return 3

    with pytest.raises(TypeError, match="must return a dict or a list of dicts, not 3"):
        Wrong(**files)
    with pytest.raises(TypeError, match="metainfo must be a mapping, not a int"):
        BaseDataset(metainfo=3, lazy_init=True)
    with pytest.raises(TypeError, match=r"data_prefix\['img'\] must be a path, not 1"):
        BaseDataset(data_prefix={"img": 1}, lazy_init=True)
    with pytest.raises(NotImplementedError, match="Annotated must implement get_cat_ids"):
        Annotated(**files).get_cat_ids(0)


def test_compose_stops_at_a_rejection_and_names_a_failing_transform():
    assert Compose([lambda x: x + 1, lambda x: x * 2])(3) == 8
    assert Compose(None)(3) == 3
    assert Compose([lambda x: None, lambda x: x * 2])(3) is None

    class Broken:
        def __call__(self, sample):
            raise KeyError("img")

        def __repr__(self):
            return "Broken()"

    with pytest.raises(KeyError) as caught:
        Compose([Broken()])({})
    assert caught.value.__notes__ == ["in transform Broken()"]
    assert repr(Compose([Broken()])) == "Compose(\n    Broken()\n)"
    with pytest.raises(TypeError, match="a transform must be .*callable.*, not 3"):
        Compose([3])


def test_compose_builds_configs():
    nested = Compose([{"type": "Compose", "transforms": [{"type": "BatchRandomHorizontalFlip", "prob": 0.25}]}])
    assert repr(nested.transforms[0].transforms[0]) == "BatchRandomHorizontalFlip(prob=0.25)"
    with pytest.raises(UnknownTypeError, match="'NoSuchTransform' is not registered as a transform"):
        Compose([{"type": "NoSuchTransform"}])
