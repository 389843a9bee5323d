"""The base dataset: a list of annotations and a pipeline of transforms that turns each into a sample."""

import copy
import functools
import logging
import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import numpy as np
from torch.utils.data import Dataset

from trainwright.datasets.renumbering import renumber_labels
from trainwright.engine.errors import DataError
from trainwright.engine.fileio import list_from_file, load
from trainwright.engine.records.logger import print_log
from trainwright.engine.registry import DATASETS, TRANSFORMS

D = TypeVar("D")
P = ParamSpec("P")
R = TypeVar("R")


@TRANSFORMS.register_module()
class Compose:
    """Apply transforms in order.

    Args:
        transforms: callables, or configs of registered transforms. Each takes a sample and returns it transformed,
            or returns None to reject it.

    Raises:
        TypeError: a transform is neither callable nor the config of a callable.
    """

    def __init__(self, transforms: Sequence[Mapping[str, Any] | Callable[..., Any]] | None = None) -> None:
        self.transforms = [build_transform(transform) for transform in transforms or ()]

    def __call__(self, data: Any) -> Any:
        """Return the transformed sample, or None as soon as a transform returns None."""
        for transform in self.transforms:
            try:
                data = transform(data)
            except Exception as error:
                if _lacks_image(data) and (isinstance(error, TypeError) or "'img'" in str(error)):
                    remedy = "begin the pipeline with dict(type='LoadImageFromFile')"
                    raise DataError(f"{data['img_path']} has not been loaded: {remedy}") from error
                error.add_note(f"in transform {transform}")
                raise
            if data is None:
                return None
        return data

    def __repr__(self) -> str:
        lines = "".join(f"\n    {transform}" for transform in self.transforms)
        return f"{type(self).__name__}({lines}\n)"


def _lacks_image(sample: Any) -> bool:
    return isinstance(sample, Mapping) and "img_path" in sample and "img" not in sample


def build_transform(transform: Mapping[str, Any] | Callable[..., Any]) -> Callable[..., Any]:
    """Build a transform from its config; return a callable unchanged.

    Raises:
        TypeError: ``transform`` is neither callable nor the config of a callable.
    """
    built = TRANSFORMS.build(transform) if isinstance(transform, Mapping) else transform
    if not callable(built):
        raise TypeError(f"a transform must be a callable or the config of one, not {built!r}")
    return built


def force_full_init(method: Callable[Concatenate[D, P], R]) -> Callable[Concatenate[D, P], R]:
    """Decorate a dataset method so that it loads the annotations first if ``lazy_init`` postponed that."""

    @functools.wraps(method)
    def wrapper(self: D, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if not getattr(self, "_fully_initialized", False):
            _initialize_late(self)
        return method(self, *args, **kwargs)

    return wrapper


def _initialize_late(dataset: Any) -> None:
    if not hasattr(dataset, "full_init"):
        raise AttributeError(f"{type(dataset).__name__} has no method full_init()")
    print_log(
        f"{type(dataset).__name__} loads its annotations on first use; call full_init() before data workers start, "
        "otherwise every worker loads its own copy",
        logger="current",
        level=logging.WARNING,
    )
    dataset.full_init()
    dataset._fully_initialized = True


@DATASETS.register_module()
class BaseDataset(Dataset[Any]):
    """A list of annotations and a pipeline that turns each of them into a sample.

    The annotation file (JSON, YAML or pickle) contains ``dict(metainfo=dict(...), data_list=[dict(...), ...])``.
    For other formats, override :meth:`load_data_list`. Loaded annotations are serialized to one byte array, which
    forked data workers share with the main process. Python objects would gradually be copied into every worker,
    because updating a reference count writes to the memory page.

    Args:
        ann_file: path of the annotation file, relative to ``data_root``.
        metainfo: information about the dataset, such as ``dict(classes=(...))``. Takes precedence over
            :attr:`METAINFO`, which takes precedence over the annotation file. The path of a text file is replaced
            by a list of its lines.
        data_root: root folder of ``ann_file`` and ``data_prefix``.
        data_prefix: for each annotation key that contains a path, the folder it is relative to; by default
            ``dict(img_path="")``.
        filter_cfg: options of :meth:`filter_data` in subclasses.
        indices: keep only the first ``indices`` samples (the last ones if negative), or the samples at these indices.
        serialize_data: store the annotations as one byte array instead of a list.
        pipeline: transforms or their configs.
        test_mode: raise an error if the pipeline rejects a sample, instead of replacing it with another one.
        lazy_init: load the annotations on first use.
        max_refetch: number of random replacements to try if the pipeline rejects a sample.
    """

    METAINFO: Mapping[str, Any] = {}
    _fully_initialized: bool = False
    _annotation_names: tuple[str, ...] = ("data_list", "data_address", "data_bytes")
    data_bytes: np.ndarray
    data_address: np.ndarray

    def __init__(
        self,
        ann_file: str | os.PathLike[str] | None = "",
        metainfo: Mapping[str, Any] | None = None,
        data_root: str | os.PathLike[str] | None = "",
        data_prefix: Mapping[str, str] | None = None,
        filter_cfg: Mapping[str, Any] | None = None,
        indices: int | Sequence[int] | None = None,
        serialize_data: bool = True,
        pipeline: Sequence[Mapping[str, Any] | Callable[..., Any]] = (),
        test_mode: bool = False,
        lazy_init: bool = False,
        max_refetch: int = 1000,
    ) -> None:
        self.ann_file = os.fspath(ann_file or "")
        self._metainfo = self._load_metainfo(copy.deepcopy(metainfo))
        self.data_root = os.fspath(data_root or "")
        self.data_prefix = {"img_path": ""} if data_prefix is None else dict(data_prefix)
        self.filter_cfg = copy.deepcopy(filter_cfg)
        self._indices = indices
        self.serialize_data = serialize_data
        self.test_mode = test_mode
        self.max_refetch = max_refetch
        self.data_list: list[dict[str, Any]] = []
        self._join_prefix()
        self.pipeline = Compose(pipeline)
        if not lazy_init:
            self.full_init()

    @property
    def metainfo(self) -> dict[str, Any]:
        """A copy of the dataset's meta information."""
        return copy.deepcopy(self._metainfo)

    def full_init(self) -> None:
        """Load, filter, subset and serialize the annotations. Idempotent."""
        if self._fully_initialized:
            return
        self.data_list = self.load_data_list()
        self.data_list = self.filter_data()
        if self._indices is not None:
            self.data_list = self._get_unserialized_subset(self._indices)
        if self.serialize_data:
            self.data_bytes, self.data_address = self._serialize_data()
        self._fully_initialized = True

    def load_data_list(self) -> list[dict[str, Any]]:
        """Read the annotation file.

        Returns:
            one dict per sample.

        Raises:
            TypeError: the file does not contain a dict, or :meth:`parse_data_info` returned something else.
            ValueError: the file lacks ``metainfo`` or ``data_list``.
        """
        annotations = load(self.ann_file)
        if not isinstance(annotations, dict):
            raise TypeError(
                f"{self.ann_file}: expected a dict with the keys metainfo and data_list, "
                f"got a {type(annotations).__name__}"
            )
        if missing := {"metainfo", "data_list"} - annotations.keys():
            raise ValueError(f"{self.ann_file}: missing key {' and '.join(sorted(missing))}")
        for key, value in annotations["metainfo"].items():
            self._metainfo.setdefault(key, value)
        data_list: list[dict[str, Any]] = []
        for raw_data_info in annotations["data_list"]:
            parsed = self.parse_data_info(raw_data_info)
            infos = parsed if isinstance(parsed, list) else [parsed]
            if not all(isinstance(info, dict) for info in infos):
                raise TypeError(f"parse_data_info must return a dict or a list of dicts, not {parsed!r}")
            data_list.extend(infos)
        return data_list

    def parse_data_info(self, raw_data_info: dict[str, Any]) -> dict[str, Any] | list[dict[str, Any]]:
        """Convert an entry of the annotation file to one sample or several; the default only joins paths.

        Raises:
            ValueError: the entry lacks a key of ``data_prefix``.
        """
        for key, prefix in self.data_prefix.items():
            if key not in raw_data_info:
                raise ValueError(
                    f"{self.ann_file}: an annotation lacks the key {key!r} of data_prefix; it has "
                    f"{', '.join(map(repr, raw_data_info))}"
                )
            raw_data_info[key] = _join(prefix, raw_data_info[key])
        return raw_data_info

    def filter_data(self) -> list[dict[str, Any]]:
        """Return the annotations of ``self.data_list`` to keep; all by default."""
        return self.data_list

    @force_full_init
    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return a copy of a sample's annotation, with its index as ``sample_idx``.

        Args:
            idx: index of the sample; negative indices count from the end.

        Raises:
            IndexError: ``idx`` is out of range.
        """
        position = position_of(idx, self._num_annotations())
        data_info = self._stored(position)
        data_info["sample_idx"] = position
        return data_info

    @force_full_init
    def remap_classes(self, classes: Sequence[str]) -> None:
        """Renumber the classes of all samples, so that they have the numbers of another dataset or a checkpoint.

        The engine calls this for a dataset that has the same classes in another order, or only some of them. The
        default changes ``gt_label``, ``gt_score``, ``bbox_label`` and ``label`` in the loaded annotations; override it
        for labels under other names.

        Args:
            classes: class names in the order of their new numbers, including all classes of this dataset.

        Raises:
            DataError: the annotations have none of these keys.
        """
        infos = [self._stored(position) for position in range(self._num_annotations())]
        new_labels = self._adopt_classes(classes)
        changed = [renumber_labels(info, new_labels, len(classes)) for info in infos]
        if infos and not any(changed):
            raise DataError(
                f"{type(self).__name__} has no gt_label, gt_score or instances in its annotations, so its classes "
                "cannot be renumbered: list them in the same order, or implement remap_classes()"
            )
        self._store(infos)

    def _adopt_classes(self, classes: Sequence[str]) -> list[int]:
        """Change the classes in ``metainfo``, and their palette, and return the new number of each class."""
        names = [str(name) for name in self._metainfo["classes"]]
        new_labels = [list(classes).index(name) for name in names]
        self._metainfo["classes"] = tuple(classes)
        if (palette := self._metainfo.get("palette")) is not None and len(palette) == len(names):
            colors = dict(zip(new_labels, palette))
            self._metainfo["palette"] = [colors.get(label, (0, 0, 0)) for label in range(len(classes))]
        return new_labels

    def _stored(self, position: int) -> dict[str, Any]:
        """Return a copy of a loaded annotation."""
        if self.serialize_data:
            start, end = self._byte_range(position)
            return pickle.loads(self.data_bytes.data[start:end])  # type: ignore[no-any-return]  # from _serialize_data
        return copy.deepcopy(self.data_list[position])

    def _store(self, infos: list[dict[str, Any]]) -> None:
        """Replace the loaded annotations."""
        self.data_list = infos
        if self.serialize_data:
            self.data_bytes, self.data_address = self._serialize_data()

    def check_annotations(self) -> Iterator[str]:
        """Yield a line per problem in the annotations: the sample, what is wrong and the remedy.

        ``trainwright browse-dataset`` prints these lines. The default checks that annotated files exist; subclasses
        add checks of their format.
        """
        for index in range(len(self)):
            info = self.get_data_info(index)
            paths = [info[key] for key in self.data_prefix if isinstance(info.get(key), str | os.PathLike)]
            if not paths:
                return
            for path in paths:
                if not Path(path).exists():
                    yield f"sample {index}: {os.fspath(path)} not found: check data_root and data_prefix"

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the class indices of a sample. Subclasses override this to support class balancing."""
        raise NotImplementedError(f"{type(self).__name__} must implement get_cat_ids(idx) to be balanced by class")

    def prepare_data(self, idx: int) -> Any:
        """Return a sample transformed by the pipeline, or None if the pipeline rejects it."""
        return self.pipeline(self.get_data_info(idx))

    def __getitem__(self, idx: int) -> Any:
        """Return a sample transformed by the pipeline; outside ``test_mode``, replace rejected samples at random.

        Raises:
            RuntimeError: the pipeline rejects the sample in ``test_mode``, or rejects ``max_refetch`` replacements too.
        """
        if not self._fully_initialized:
            _initialize_late(self)
        data = self.prepare_data(idx)
        if data is not None:
            return data
        if self.test_mode:
            raise RuntimeError(f"the pipeline rejected sample {idx} (returned None), which is not allowed in test_mode")
        for _ in range(self.max_refetch):
            data = self.prepare_data(self._rand_another())
            if data is not None:
                return data
        raise RuntimeError(
            f"the pipeline rejected sample {idx} (returned None) and {self.max_refetch} random replacements: "
            "check the paths and the pipeline"
        )

    @force_full_init
    def __len__(self) -> int:
        return self._num_annotations()

    @force_full_init
    def get_subset_(self, indices: int | Sequence[int]) -> None:
        """Reduce the dataset to a subset in place.

        Args:
            indices: keep only the first ``indices`` samples (the last ones if negative), or the samples at these
                indices.

        Raises:
            IndexError: an index is out of range.
            TypeError: ``indices`` is neither an integer nor a sequence.
        """
        if self.serialize_data:
            self.data_bytes, self.data_address = self._get_serialized_subset(indices)
        else:
            self.data_list = self._get_unserialized_subset(indices)

    @force_full_init
    def get_subset(self, indices: int | Sequence[int]) -> Self:
        """Return a subset with its own copy of the annotations; see :meth:`get_subset_`."""
        subset = self._copy_without_annotation()
        if self.serialize_data:
            data_bytes, data_address = self._get_serialized_subset(indices)
            subset.data_bytes, subset.data_address = data_bytes.copy(), data_address.copy()
        else:
            subset.data_list = copy.deepcopy(self._get_unserialized_subset(indices))
        return subset

    @classmethod
    def _load_metainfo(cls, metainfo: Mapping[str, Any] | None = None) -> dict[str, Any]:
        merged = dict(copy.deepcopy(cls.METAINFO))
        if metainfo is None:
            return merged
        if not isinstance(metainfo, Mapping):
            raise TypeError(f"metainfo must be a mapping, not a {type(metainfo).__name__}")
        for key, value in metainfo.items():
            merged[key] = _lines_if_file(value) if isinstance(value, str) else value
        return merged

    def _join_prefix(self) -> None:
        if self.ann_file:
            self.ann_file = _join(self.data_root, self.ann_file)
        for key, prefix in self.data_prefix.items():
            if not isinstance(prefix, str | os.PathLike):
                raise TypeError(f"data_prefix[{key!r}] must be a path, not {prefix!r}")
            self.data_prefix[key] = _join(self.data_root, os.fspath(prefix))

    def _num_annotations(self) -> int:
        return len(self.data_address) if self.serialize_data else len(self.data_list)

    def _byte_range(self, position: int) -> tuple[int, int]:
        start = int(self.data_address[position - 1]) if position else 0
        return start, int(self.data_address[position])

    def _serialize_data(self) -> tuple[np.ndarray, np.ndarray]:
        """Return all annotations as bytes (uint8) with the end offset of each (int64), and clear ``data_list``."""
        pieces = [pickle.dumps(data_info, protocol=pickle.HIGHEST_PROTOCOL) for data_info in self.data_list]
        self.data_list.clear()
        data_address = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
        return np.frombuffer(b"".join(pieces), dtype=np.uint8), data_address

    def _get_serialized_subset(self, indices: int | Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        chosen = chosen_positions(indices, len(self.data_address))
        if not chosen:
            return np.empty(0, dtype=np.uint8), np.empty(0, dtype=np.int64)
        ranges = [self._byte_range(position) for position in chosen]
        data_bytes = np.concatenate([self.data_bytes[start:end] for start, end in ranges])
        return data_bytes, np.cumsum([end - start for start, end in ranges], dtype=np.int64)

    def _get_unserialized_subset(self, indices: int | Sequence[int]) -> list[dict[str, Any]]:
        return [self.data_list[position] for position in chosen_positions(indices, len(self.data_list))]

    def _rand_another(self) -> int:
        return int(np.random.randint(0, len(self)))

    def _copy_without_annotation(self) -> Self:
        other = type(self).__new__(type(self))
        for key, value in self.__dict__.items():
            if key not in self._annotation_names:
                other.__dict__[key] = copy.deepcopy(value)
        other.data_list = []
        return other


def _lines_if_file(value: str) -> str | list[str]:
    """Return the lines of the text file at the path ``value``, or ``value`` if there is no such file."""
    if os.path.isfile(value):  # noqa: PTH113  # Path.is_file() raises for a text too long to be a path
        return list_from_file(value)
    if value.endswith(".txt"):
        print_log(
            f"metainfo: file {value!r} not found; using the string itself", logger="current", level=logging.WARNING
        )
    return value


def chosen_positions(indices: int | Sequence[int], size: int) -> Sequence[int]:
    """Resolve ``indices`` to positions in a dataset of ``size`` samples.

    Args:
        indices: the first ``indices`` samples (the last ones if negative), or a sequence of indices.
        size: number of samples.

    Raises:
        IndexError: an index is out of range.
        TypeError: ``indices`` is neither an integer nor a sequence.
    """
    if isinstance(indices, int):
        return range(size)[:indices] if indices >= 0 else range(size)[indices:]
    if isinstance(indices, Sequence | np.ndarray):
        return [position_of(int(index), size) for index in indices]
    raise TypeError(f"indices must be an integer or a sequence of integers, not {indices!r}")


def position_of(index: int, size: int) -> int:
    """Convert an index that may be negative to a non-negative position.

    Raises:
        IndexError: ``index`` is out of range.
    """
    if not -size <= index < size:
        raise IndexError(f"sample {index} is out of range for a dataset of {size} samples")
    return index + size if index < 0 else index


def _join(folder: str, path: str) -> str:
    """Join a folder and a path, unless the path is absolute or a URL."""
    return path if "://" in path else os.path.join(folder, path)  # noqa: PTH118  # the folder may be a URL too
