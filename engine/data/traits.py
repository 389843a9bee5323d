"""Optional attributes and methods of custom datasets, samplers and data loaders, beyond those of PyTorch.

Every trait is recognized by its name; there is no base class. The engine looks traits up in the functions below and,
for samplers, in :class:`~trainwright.engine.data.seeded.PositionedSampler`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from inspect import signature
from typing import Any, Protocol

from torch.utils.data import TensorDataset


class DatasetTraits(Protocol):
    """Optional attributes and methods of a map-style dataset.

    Attributes:
        deterministic: samples never depend on random numbers, so no generator is seeded before fetching them.
        fetches_batches: ``__getitems__(indices)`` returns a whole batch, which is not collated.
        metainfo: facts such as ``{"classes": (...)}``, for evaluators, visualizers and checkpoints.
    """

    deterministic: bool
    fetches_batches: bool
    metainfo: Mapping[str, Any]

    def full_init(self) -> None:
        """Read the annotations. Called before data workers start; must be idempotent."""

    def get_data_info(self, index: int) -> Mapping[str, Any]:
        """Return the annotations of a sample. Messages include its path (``img_path``, ...), if present."""

    def describe_sample(self, index: int) -> str:
        """Return a readable identifier, such as a path. Takes precedence over :meth:`get_data_info` in messages."""

    def remap_classes(self, classes: Sequence[str]) -> None:
        """Renumber the classes: ``classes`` has all names in ``metainfo["classes"]`` in another order, or more."""

    def remap_seg_classes(self, classes: Sequence[str]) -> None:
        """Renumber the classes of pixels, for a dataset that lists them separately, in ``metainfo["seg_classes"]``."""

    def remap_keypoints(self, keypoints: Sequence[str]) -> None:
        """Reorder the keypoints: ``keypoints`` has the names in ``metainfo["keypoints"]`` in another order."""

    def check_labels(self, indices: Iterable[int]) -> Iterator[str]:
        """Yield a line for each problem in the labels of some samples, such as the values of masks."""

    def check_annotations(self) -> Iterator[str]:
        """Yield a line for each problem in the annotations, for ``trainwright browse``."""

    def _get_ori_dataset_idx(self, index: int) -> Any:
        """Return the index in the wrapped ``dataset``, or the number of one of ``datasets`` and the index in it.

        This is MMEngine's method of dataset wrappers; it allows messages to name the innermost dataset.
        """


class SamplerTraits(Protocol):
    """Optional attributes and methods of a sampler or batch sampler.

    Attributes:
        endless: the sampler never ends, so it requires an iteration-based loop.
        repeats: a sample may occur several times per epoch, each time with different random numbers.
    """

    endless: bool
    repeats: bool

    def iter_from(self, start: int, skip: int = 0) -> Iterator[Any]:
        """Return an iterator like ``iter(self)`` that skips the first ``start`` items without computing them.

        The argument ``skip`` is optional: the number of indices of all ranks that are skipped before the rest of the
        order is divided among the ranks. With it, a run continues exactly on another number of ranks. The order must
        have the length of the dataset.
        """

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""


class StreamTraits(Protocol):
    """Optional attributes and methods of an iterable dataset.

    Attributes:
        sharded: True if each process, of every rank and data worker, yields only its own part; the length is then that
            of this rank. False if every process yields all samples: each keeps its share of them, and a validation
            covers each sample once, in order. If not set, each rank keeps its share of what its data workers yield.
    """

    sharded: bool

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""


class PositionTraits(Protocol):
    """Optional attributes and methods of an iterable dataset or data loader that resumes in the middle of a pass.

    Attributes:
        has_state: set to false if the methods exist but have no effect.
    """

    has_state: bool

    def state_dict(self) -> dict[str, Any]:
        """Return the current position, consisting of numbers, strings, tensors, arrays, and containers of these."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next iteration continue at a saved position."""


def is_sharded(dataset: Any) -> bool | None:
    """Return whether each process yields its own part of an iterable dataset; None if that is not known.

    Datasets of Hugging Face and webdataset that are split by node are recognized.
    """
    declared = getattr(dataset, "sharded", None)
    if declared is not None:
        return bool(declared)
    package = type(dataset).__module__.partition(".")[0]
    if package == "datasets" and getattr(dataset, "_distributed", None) is not None:  # by split_dataset_by_node()
        return True
    stages = getattr(dataset, "pipeline", None) if package == "webdataset" else None
    if any(getattr(stage, "__name__", None) == "split_by_node" for stage in stages or ()):
        return True
    return None


def can_skip(sampler: Any) -> bool:
    """Return whether ``iter_from`` of a sampler has the argument ``skip``, and follows its order."""
    for cls in type(sampler).__mro__:
        if "iter_from" in vars(cls):
            return "skip" in signature(vars(cls)["iter_from"]).parameters
        if "__iter__" in vars(cls):  # an overridden order
            return False
    return False


def is_deterministic(dataset: Any) -> bool:
    """Return whether samples never depend on random numbers."""
    return bool(getattr(dataset, "deterministic", isinstance(dataset, TensorDataset)))


def fetches_batches(dataset: Any) -> bool:
    """Return whether a dataset returns whole batches that need no collating."""
    return bool(getattr(dataset, "fetches_batches", False))


def metainfo_of(dataloader: Any) -> dict[str, Any] | None:
    """Return the ``metainfo`` of a loader's dataset, if any."""
    return getattr(getattr(dataloader, "dataset", None), "metainfo", None)


def keeps_position(part: Any) -> bool:
    """Return whether an iterable dataset or a loader saves its own position; see :class:`PositionTraits`."""
    return bool(getattr(part, "has_state", hasattr(part, "state_dict") and hasattr(part, "load_state_dict")))


def set_epoch(sampler: Any, epoch: int) -> None:
    """Set the epoch of a sampler, and of the sampler inside a batch sampler, if they support it."""
    parts: tuple[Any, ...] = (sampler, getattr(sampler, "sampler", None))
    for part in parts:
        if hasattr(part, "set_epoch"):
            part.set_epoch(epoch)
