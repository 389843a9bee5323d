"""Datasets that wrap other datasets."""

import bisect
import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from torch.utils.data import ConcatDataset as TorchConcatDataset
from torch.utils.data import Dataset

from trainwright.datasets.base import Compose, force_full_init, position_of
from trainwright.engine.data.faults import note_mixed_sample
from trainwright.engine.data.names import adopt_numbers, names_of
from trainwright.engine.errors import did_you_mean
from trainwright.engine.registry import DATASETS


class _Wrapper:
    """Base class of datasets that wrap other datasets."""

    _metainfo: dict[str, Any]

    @property
    def metainfo(self) -> dict[str, Any]:
        """A copy of the meta information of the wrapped dataset (the first one if there are several)."""
        return copy.deepcopy(self._metainfo)

    def remap_classes(self, classes: Sequence[str]) -> None:
        """Renumber the classes of the wrapped datasets; see :meth:`BaseDataset.remap_classes`."""
        self._remap("classes", classes)

    def remap_seg_classes(self, classes: Sequence[str]) -> None:
        """Renumber the classes of pixels of wrapped datasets that support it."""
        self._remap("seg_classes", classes)

    def remap_keypoints(self, keypoints: Sequence[str]) -> None:
        """Reorder the keypoints of the wrapped datasets; see :meth:`BaseCocoStyleDataset.remap_keypoints`."""
        self._remap("keypoints", keypoints)

    def _remap(self, key: str, names: Sequence[str]) -> None:
        inner = self._wrapped()
        for number, dataset in enumerate(inner):
            adopt_numbers(dataset, key, names, f"dataset {number} of {type(self).__name__}", "the reference")
        self._metainfo = inner[0].metainfo

    def _wrapped(self) -> list[Any]:
        return getattr(self, "datasets", None) or [self.dataset]  # type: ignore[attr-defined]

    def check_annotations(self) -> Iterator[str]:
        """Yield the problems that the wrapped datasets report; indices refer to the wrapped datasets."""
        inner = self._wrapped()
        for number, dataset in enumerate(inner):
            check = getattr(dataset, "check_annotations", tuple)
            yield from (f"dataset {number}: {line}" if len(inner) > 1 else line for line in check())

    def get_subset_(self, indices: int | Sequence[int]) -> NoReturn:
        """Not supported, because the corresponding samples of the wrapped datasets are ambiguous."""
        raise NotImplementedError(
            f"{type(self).__name__} does not support subsets: pass `indices` to the wrapped dataset or call its "
            "get_subset()"
        )

    def get_subset(self, indices: int | Sequence[int]) -> NoReturn:
        """Not supported; see :meth:`get_subset_`."""
        self.get_subset_(indices)


@DATASETS.register_module()
class ConcatDataset(_Wrapper, TorchConcatDataset[Any]):
    """A concatenation of datasets.

    Datasets that have the classes of the first one in another order, or only some of them, are renumbered.

    Args:
        datasets: at least one dataset or config of a dataset.
        lazy_init: load the annotations on first use.
        ignore_keys: keys of ``metainfo`` that may differ between the datasets; those of the first dataset are used.

    Raises:
        TypeError: an item is neither a dataset nor its config, or the datasets have metainfo of different types.
        ValueError: ``datasets`` is empty, or the datasets have different metainfo.
        DataError: the datasets have different classes.
    """

    def __init__(
        self,
        datasets: Sequence[Mapping[str, Any] | Any],
        lazy_init: bool = False,
        ignore_keys: str | Sequence[str] | None = None,
    ) -> None:
        self.datasets: list[Any] = [_build_dataset(dataset) for dataset in datasets]
        if not self.datasets:
            raise ValueError("ConcatDataset needs at least one dataset")
        self.ignore_keys = [ignore_keys] if isinstance(ignore_keys, str) else list(ignore_keys or ())
        self._metainfo = self.datasets[0].metainfo
        for number, dataset in enumerate(self.datasets[1:], 1):
            for key in ("classes", "seg_classes", "keypoints") if not lazy_init else ():
                if key not in self.ignore_keys and names_of(self._metainfo, key):
                    adopt_numbers(dataset, key, self._metainfo[key], f"datasets.{number}", "datasets.0")
            self._check_metainfo(number, dataset.metainfo)
        self._fully_initialized = False
        if not lazy_init:
            self.full_init()

    def full_init(self) -> None:
        """Load the annotations of all datasets. Idempotent."""
        if self._fully_initialized:
            return
        for dataset in self.datasets:
            dataset.full_init()
        super().__init__(self.datasets)
        self._fully_initialized = True

    @force_full_init
    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return the annotation of a sample; see :meth:`BaseDataset.get_data_info`."""
        dataset_idx, sample_idx = self._get_ori_dataset_idx(idx)
        return self.datasets[dataset_idx].get_data_info(sample_idx)  # type: ignore[no-any-return]

    @force_full_init
    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the class indices of a sample."""
        dataset_idx, sample_idx = self._get_ori_dataset_idx(idx)
        return self.datasets[dataset_idx].get_cat_ids(sample_idx)  # type: ignore[no-any-return]

    @force_full_init
    def __getitem__(self, idx: int) -> Any:
        dataset_idx, sample_idx = self._get_ori_dataset_idx(idx)
        return self.datasets[dataset_idx][sample_idx]

    @force_full_init
    def __len__(self) -> int:
        return super().__len__()

    @force_full_init
    def _get_ori_dataset_idx(self, idx: int) -> tuple[int, int]:
        """Return the index of the dataset that contains a sample, and the sample's index in it."""
        position = position_of(idx, self.cumulative_sizes[-1])
        dataset_idx = bisect.bisect_right(self.cumulative_sizes, position)
        return dataset_idx, position - (self.cumulative_sizes[dataset_idx - 1] if dataset_idx else 0)

    def _check_metainfo(self, number: int, metainfo: dict[str, Any]) -> None:
        keys = (self._metainfo.keys() | metainfo.keys()) - set(self.ignore_keys)
        for key in sorted(keys):
            if key not in metainfo or key not in self._metainfo:
                owner, other = (0, number) if key in self._metainfo else (number, 0)
                raise ValueError(f"datasets.{owner} has metainfo {key!r}, but datasets.{other} does not{_IGNORE_HINT}")
            first, value = self._metainfo[key], metainfo[key]
            if type(first) is not type(value):
                raise TypeError(
                    f"metainfo {key!r} is a {type(first).__name__} in datasets.0, "
                    f"but a {type(value).__name__} in datasets.{number}{_IGNORE_HINT}"
                )
            if not np.array_equal(first, value) if isinstance(first, np.ndarray) else first != value:
                raise ValueError(f"metainfo {key!r} of datasets.{number} differs from that of datasets.0{_IGNORE_HINT}")


_IGNORE_HINT = "; add it to ignore_keys if this is intended"


class IndexedWrapper(_Wrapper, Dataset[Any]):
    """Base class of datasets that map each index to an index of one wrapped dataset.

    Args:
        dataset: a dataset or its config.
        lazy_init: load the annotations on first use.
    """

    def __init__(self, dataset: Mapping[str, Any] | Any, lazy_init: bool = False) -> None:
        self.dataset = _build_dataset(dataset)
        self._metainfo = self.dataset.metainfo
        self._fully_initialized = False
        if not lazy_init:
            self.full_init()

    def full_init(self) -> None:
        """Load the annotations of the wrapped dataset. Idempotent."""
        if self._fully_initialized:
            return
        self.dataset.full_init()
        self._index()
        self._fully_initialized = True

    @force_full_init
    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return the annotation of a sample; see :meth:`BaseDataset.get_data_info`."""
        return self.dataset.get_data_info(self._get_ori_dataset_idx(idx))  # type: ignore[no-any-return]

    @force_full_init
    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the class indices of a sample."""
        return self.dataset.get_cat_ids(self._get_ori_dataset_idx(idx))  # type: ignore[no-any-return]

    def _index(self) -> None:
        """Prepare for :meth:`_get_ori_dataset_idx` after the wrapped dataset is initialized."""
        raise NotImplementedError

    def _get_ori_dataset_idx(self, idx: int) -> int:
        """Return the index of a sample in the wrapped dataset."""
        raise NotImplementedError


class _RepeatingWrapper(IndexedWrapper):
    """Base class of datasets that return the samples of one wrapped dataset, possibly repeatedly."""

    @property
    def fetches_batches(self) -> bool:
        """Whether ``__getitems__`` returns a whole batch that needs no collation."""
        return bool(getattr(self.dataset, "fetches_batches", False))

    @property
    def deterministic(self) -> bool:
        """Whether samples never depend on random numbers."""
        return bool(getattr(self.dataset, "deterministic", False))

    @property
    def __getitems__(self) -> Callable[[Sequence[int]], Any] | None:
        """Fetch a whole batch at once; None if the wrapped dataset does not support it."""
        return self._get_batch if self.fetches_batches else None

    @force_full_init
    def __getitem__(self, idx: int) -> Any:
        return self.dataset[self._get_ori_dataset_idx(idx)]

    @force_full_init
    def _get_batch(self, indices: Sequence[int]) -> Any:
        return self.dataset.__getitems__([self._get_ori_dataset_idx(index) for index in indices])


@DATASETS.register_module()
class RepeatDataset(_RepeatingWrapper):
    """A dataset repeated several times: epochs are longer, with fewer pauses between them.

    Args:
        dataset: a dataset or its config.
        times: number of repetitions, at least 1.
        lazy_init: load the annotations on first use.

    Raises:
        ValueError: ``times`` is below 1.
    """

    def __init__(self, dataset: Mapping[str, Any] | Any, times: int, lazy_init: bool = False) -> None:
        if times < 1:
            raise ValueError(f"times must be at least 1, not {times}")
        self.times = times
        super().__init__(dataset, lazy_init)

    @force_full_init
    def __len__(self) -> int:
        return self.times * self._ori_len

    def _index(self) -> None:
        self._ori_len = len(self.dataset)

    @force_full_init
    def _get_ori_dataset_idx(self, idx: int) -> int:
        return position_of(idx, self.times * self._ori_len) % self._ori_len


@DATASETS.register_module()
class ClassBalancedDataset(_RepeatingWrapper):
    """A dataset that repeats samples of rare classes (Gupta, Dollár & Girshick 2019, "LVIS").

    A class that occurs in a fraction ``f`` of the samples has the repeat factor ``max(1, sqrt(oversample_thr / f))``.
    A sample is repeated by the factor of its rarest class, rounded up.

    Args:
        dataset: a dataset that implements ``get_cat_ids(index)``, or its config.
        oversample_thr: classes that occur in a smaller fraction of the samples are repeated.
        lazy_init: load the annotations on first use.
    """

    def __init__(self, dataset: Mapping[str, Any] | Any, oversample_thr: float, lazy_init: bool = False) -> None:
        self.oversample_thr = oversample_thr
        super().__init__(dataset, lazy_init)

    @force_full_init
    def __len__(self) -> int:
        return len(self.repeat_indices)

    def _index(self) -> None:
        classes = [set(self.dataset.get_cat_ids(index)) for index in range(len(self.dataset))]
        counts = Counter(label for labels in classes for label in labels)
        factor = {label: math.sqrt(self.oversample_thr / (count / len(classes))) for label, count in counts.items()}
        self.repeat_indices = [
            index
            for index, labels in enumerate(classes)
            for _ in range(math.ceil(max([1.0, *(factor[label] for label in labels)])))
        ]

    @force_full_init
    def _get_ori_dataset_idx(self, idx: int) -> int:
        return self.repeat_indices[idx]


@DATASETS.register_module()
class MultiImageMixDataset(IndexedWrapper):
    """A dataset whose pipeline may combine several images, by ``Mosaic``, ``MixUp`` or ``CopyPaste``.

    The wrapped dataset loads images and annotations, without packing them; ``pipeline`` does the rest. Before a
    transform with a method ``get_indices(dataset)`` (or ``get_indexes``), the samples with these indices are stored as
    ``mix_results``. The other images are chosen with the random stream of the sample, so a sample depends only on the
    seed, the epoch and its index.

    To train without strong augmentation in the last epochs, change ``skip_type_keys`` by a hook::

        dict(
            type="SwitchHook", at_epoch=85, target="train_dataloader.dataset.skip_type_keys", value=["Mosaic", "MixUp"]
        )

    Args:
        dataset: a dataset or its config.
        pipeline: transforms or their configs.
        skip_type_keys: class names of transforms in ``pipeline`` to skip.
        max_refetch: number of random replacements to try if ``pipeline`` rejects a sample.
        lazy_init: load the annotations on first use.

    Raises:
        ValueError: ``pipeline`` has no transform of a name in ``skip_type_keys``.
    """

    def __init__(
        self,
        dataset: Mapping[str, Any] | Any,
        pipeline: Sequence[Mapping[str, Any] | Callable[..., Any]],
        skip_type_keys: Sequence[str] | None = None,
        max_refetch: int = 15,
        lazy_init: bool = False,
    ) -> None:
        self.pipeline = Compose(pipeline)
        self.skip_type_keys = skip_type_keys
        self.max_refetch = max_refetch
        super().__init__(dataset, lazy_init)

    @property
    def skip_type_keys(self) -> tuple[str, ...]:
        """Class names of transforms to skip."""
        return self._skip_type_keys

    @skip_type_keys.setter
    def skip_type_keys(self, names: Sequence[str] | None) -> None:
        known = [type(transform).__name__ for transform in self.pipeline.transforms]
        skipped = (names,) if isinstance(names, str) else tuple(names or ())
        if unknown := [name for name in skipped if name not in known]:
            hint = did_you_mean(unknown[0], known) or f"it consists of {', '.join(known)}"
            raise ValueError(f"skip_type_keys: the pipeline has no transform {unknown[0]!r}: {hint}")
        self._skip_type_keys = skipped

    @force_full_init
    def __len__(self) -> int:
        return len(self.dataset)

    @force_full_init
    def __getitem__(self, idx: int) -> Any:
        """Return a sample transformed by the pipeline.

        Raises:
            RuntimeError: the pipeline rejects the sample and ``max_refetch`` replacements.
        """
        index = self._get_ori_dataset_idx(idx)
        for _ in range(self.max_refetch + 1):
            if (sample := self._mixed(index)) is not None:
                return sample
            index = int(torch.randint(len(self), ()))
        raise RuntimeError(
            f"the pipeline rejected sample {idx} (returned None) and {self.max_refetch} random replacements: check the "
            "pipeline"
        )

    def _mixed(self, index: int) -> Any:
        sample = self.dataset[index]
        for transform in self.pipeline.transforms:
            if type(transform).__name__ in self.skip_type_keys:
                continue
            choose = getattr(transform, "get_indices", None) or getattr(transform, "get_indexes", None)
            if choose is not None:
                others = choose(self.dataset)
                sample["mix_results"] = [
                    self._other(index, other) for other in ([others] if isinstance(others, int) else others)
                ]
            sample = Compose([transform])(sample)
            if sample is None:
                return None
            if choose is not None:
                sample.pop("mix_results", None)
        return sample

    def _other(self, index: int, other: int) -> Any:
        """Return a sample to combine with the one at ``index``."""
        try:
            return self.dataset[other]
        except Exception as error:
            note_mixed_sample(error, self.dataset, other, index)
            raise

    def _index(self) -> None:
        pass  # indices are those of the wrapped dataset

    def _get_ori_dataset_idx(self, idx: int) -> int:
        return position_of(idx, len(self))


def _build_dataset(dataset: Mapping[str, Any] | Any) -> Any:
    built = DATASETS.build(dataset)
    if not hasattr(built, "metainfo") or not hasattr(built, "full_init"):
        raise TypeError(f"expected a dataset with metainfo and full_init(), or its config, got {built!r}")
    return built
