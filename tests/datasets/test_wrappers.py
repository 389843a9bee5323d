"""Expected values are those of MMEngine 0.10.7."""

import json

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from trainwright.datasets import (
    BaseDataset,
    ClassBalancedDataset,
    ConcatDataset,
    DefaultSampler,
    RepeatDataset,
    TwoClouds,
    pseudo_collate,
    whole_batch,
)
from trainwright.engine.data.faults import describe_sample
from trainwright.engine.registry import DATASETS


@DATASETS.register_module()
class WrappedNumbers(BaseDataset):
    """Samples 0, 1, ...; the last two have rare classes."""

    def __init__(self, size=6, offset=0, **kwargs):
        self.size, self.offset = size, offset
        super().__init__(**kwargs)

    def load_data_list(self):
        return [{"y": self.offset + i} for i in range(self.size)]

    def get_cat_ids(self, idx):
        return [[0], [0], [0], [0], [1], [1, 2]][idx]


def numbers(dataset):
    return [sample["y"] for sample in dataset]


def test_concat():
    dataset = ConcatDataset([WrappedNumbers(), {"type": "WrappedNumbers", "size": 2, "offset": 10}])
    assert len(dataset) == 8
    assert numbers(dataset) == [0, 1, 2, 3, 4, 5, 10, 11]
    assert dataset[-1]["y"] == 11
    assert dataset._get_ori_dataset_idx(7) == (1, 1)
    assert dataset.get_data_info(6) == {"y": 10, "sample_idx": 0}
    assert dataset.get_cat_ids(5) == [1, 2]
    assert dataset.cumulative_sizes == [6, 8]
    for index in (8, -9):
        with pytest.raises(IndexError, match=f"sample {index} is out of range .* 8"):
            dataset[index]


def test_a_part_is_named_by_its_own_index_where_a_wrapper_tells_that_in_the_whole():
    class Fold:  # as mmpretrain's KFoldDataset
        def __init__(self):
            self.dataset = WrappedNumbers().get_subset([3, 4, 5])

        def _get_ori_dataset_idx(self, index):
            return [3, 4, 5][index]

        def __len__(self):
            return 3

    assert describe_sample(Fold(), 2) == "sample 2 of WrappedNumbers"


def test_repeat():
    dataset = RepeatDataset({"type": "WrappedNumbers", "size": 3}, times=2)
    assert len(dataset) == 6
    assert numbers(dataset) == [0, 1, 2, 0, 1, 2], "iterating ends"
    assert dataset.get_data_info(4) == {"y": 1, "sample_idx": 1}
    with pytest.raises(ValueError, match="times must be at least 1, not 0"):
        RepeatDataset(WrappedNumbers(), times=0)


def test_class_balanced():
    dataset = ClassBalancedDataset(WrappedNumbers(), oversample_thr=0.5)
    assert dataset.repeat_indices == [0, 1, 2, 3, 4, 4, 5, 5]
    assert numbers(dataset) == [0, 1, 2, 3, 4, 4, 5, 5]
    assert dataset.get_cat_ids(7) == [1, 2]
    more = ClassBalancedDataset(WrappedNumbers(), oversample_thr=0.9)
    assert more.repeat_indices == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 5]


def test_class_balanced_keeps_samples_without_class():
    class Unlabeled(WrappedNumbers):
        def get_cat_ids(self, idx):
            return []

    assert ClassBalancedDataset(Unlabeled(), oversample_thr=0.9).repeat_indices == [0, 1, 2, 3, 4, 5]


def test_concat_demands_equal_metainfo():
    classes = {"classes": ("a",)}
    with pytest.raises(ValueError, match=r"datasets\.1 has metainfo 'task', but datasets\.0 .*ignore_keys"):
        ConcatDataset([WrappedNumbers(metainfo=classes), WrappedNumbers(metainfo={**classes, "task": "x"})])
    with pytest.raises(ValueError, match=r"datasets\.0 has metainfo 'classes', but datasets\.1 "):
        ConcatDataset([WrappedNumbers(metainfo=classes), WrappedNumbers()])
    with pytest.raises(TypeError, match=r"'classes' is a tuple in datasets\.0, but a list in datasets\.1"):
        ConcatDataset([WrappedNumbers(metainfo=classes), WrappedNumbers(metainfo={"classes": ["a"]})])
    with pytest.raises(ValueError, match=r"datasets\.2 and datasets\.0 .* classes: only the former has 'b'"):
        ConcatDataset([WrappedNumbers(metainfo={"classes": (c,)}) for c in "aab"])
    with pytest.raises(ValueError, match=r"'palette' of datasets\.1 differs"):
        ConcatDataset([WrappedNumbers(metainfo={"palette": np.arange(n, n + 2)}) for n in (0, 1)])
    ConcatDataset([WrappedNumbers(metainfo={"palette": np.arange(2)}) for _ in range(2)])
    ignoring = ConcatDataset([WrappedNumbers(metainfo={"classes": (c,)}) for c in "ab"], ignore_keys="classes")
    assert ignoring.metainfo == {"classes": ("a",)}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda inner, **kw: ConcatDataset([inner], **kw),
        lambda inner, **kw: RepeatDataset(inner, 2, **kw),
        lambda inner, **kw: ClassBalancedDataset(inner, 0.5, **kw),
    ],
)
def test_what_wrappers_share(wrap):
    inner = WrappedNumbers(lazy_init=True, metainfo={"classes": ("a",)})
    dataset = wrap(inner, lazy_init=True)
    assert dataset.metainfo == {"classes": ("a",)}
    assert not inner._fully_initialized
    assert dataset[0]["y"] == 0 and inner._fully_initialized
    dataset.metainfo["classes"] = ()
    assert dataset.metainfo == {"classes": ("a",)}, "metainfo is a copy"
    for subset in (dataset.get_subset, dataset.get_subset_):
        with pytest.raises(NotImplementedError, match=f"{type(dataset).__name__} does not support subsets"):
            subset(1)
    with pytest.raises(TypeError, match="a dataset with metainfo and full_init"):
        wrap([1, 2, 3])


def test_concat_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one dataset"):
        ConcatDataset([])


def test_repeated_and_balanced_datasets_fetch_whole_batches_where_the_inner_one_can():
    clouds = TwoClouds(num_samples=10)
    for dataset in (RepeatDataset(clouds, 2), ClassBalancedDataset(clouds, 0.9)):
        assert dataset.fetches_batches and dataset.deterministic
        loader = DataLoader(dataset, batch_size=4, collate_fn=whole_batch, sampler=DefaultSampler(dataset, seed=0))
        inputs = torch.cat([batch["inputs"] for batch in loader])
        expected = torch.stack([dataset[index]["inputs"] for index in DefaultSampler(dataset, seed=0)])
        assert torch.equal(inputs, expected)
    assert not RepeatDataset(WrappedNumbers(), 2).fetches_batches
    assert not RepeatDataset(WrappedNumbers(), 2).deterministic


def test_concat_of_in_memory_datasets_falls_back_to_samples():
    dataset = ConcatDataset([TwoClouds(num_samples=4), TwoClouds(num_samples=4, seed=1)])
    (batch,) = DataLoader(dataset, batch_size=8, collate_fn=pseudo_collate)
    assert torch.equal(torch.stack(batch["inputs"])[4:], TwoClouds(num_samples=4, seed=1).inputs)
    assert [sample.gt_label.item() for sample in batch["data_samples"]] == [0, 1] * 4


def test_problems_of_the_wrapped_datasets_are_reported(tmp_path):
    def files(name):
        content = {"metainfo": {}, "data_list": [{"img_path": name}]}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        return BaseDataset(ann_file=f"{name}.json", data_root=tmp_path)

    (tmp_path / "there").write_text("")
    assert list(RepeatDataset(files("there"), times=2).check_annotations()) == []
    (line,) = RepeatDataset(files("gone"), times=2).check_annotations()
    assert line.startswith("sample 0: ") and "gone not found" in line
    (line,) = ConcatDataset([files("there"), files("gone")]).check_annotations()
    assert line.startswith("dataset 1: sample 0: ")
