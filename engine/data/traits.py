"""What datasets, samplers and loaders of your own may have besides what PyTorch requires.

Every trait is optional and recognized by its name; there is no base class to derive from. The functions below, and
:class:`~trainwright.engine.data.seeded.PositionedSampler` for samplers, are the places where the engine asks.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from torch.utils.data import TensorDataset


class DatasetTraits(Protocol):
    """Optional attributes and methods of a map-style dataset.

    Attributes:
        deterministic: samples never depend on random numbers, so no generator is seeded before they are fetched.
        fetches_batches: ``__getitems__(indices)`` returns a whole batch, which is not collated.
        metainfo: facts such as ``{"classes": (...)}``, for evaluators, visualizers and checkpoints.
    """

    deterministic: bool
    fetches_batches: bool
    metainfo: Mapping[str, Any]

    def full_init(self) -> None:
        """Read the annotations. Called before data workers start; must return at once when called again."""

    def get_data_info(self, index: int) -> Mapping[str, Any]:
        """Return the annotations of a sample; a path among them (``img_path``, ...) appears in messages."""

    def describe_sample(self, index: int) -> str:
        """Return what identifies a sample to people, such as its path; goes before :meth:`get_data_info`."""

    def check_annotations(self) -> Iterator[str]:
        """Yield a line for each problem in the annotations, for ``trainwright browse``."""

    def _get_ori_dataset_idx(self, index: int) -> Any:
        """Return the index in ``dataset`` (or the number of one of ``datasets`` and the index in it): MMEngine's name
        for a dataset of datasets, so that messages can name the innermost one."""


class SamplerTraits(Protocol):
    """Optional attributes and methods of a sampler or batch sampler.

    Attributes:
        endless: the sampler never ends; it suits training by iterations only.
        repeats: a sample may come several times in an epoch, each time with other random numbers.
    """

    endless: bool
    repeats: bool

    def iter_from(self, start: int) -> Iterator[Any]:
        """Return what ``iter(self)`` yields after its first ``start`` items, without producing those."""

    def set_epoch(self, epoch: int) -> None:
        """Select the epoch that the next iteration yields."""


class PositionTraits(Protocol):
    """How an iterable dataset, or a data loader, resumes in the middle of a pass over the data.

    Attributes:
        has_state: false where the methods exist, but have no effect.
    """

    has_state: bool

    def state_dict(self) -> dict[str, Any]:
        """Return the current position, as numbers, strings, tensors, arrays, and containers of these."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next iteration continue where a state was taken."""


def is_deterministic(dataset: Any) -> bool:
    """Return whether samples never depend on random numbers."""
    return bool(getattr(dataset, "deterministic", isinstance(dataset, TensorDataset)))


def fetches_batches(dataset: Any) -> bool:
    """Return whether a dataset returns whole batches, which are not collated."""
    return bool(getattr(dataset, "fetches_batches", False))


def metainfo_of(dataloader: Any) -> dict[str, Any] | None:
    """Return the facts that the dataset of a loader states about itself, if any."""
    return getattr(getattr(dataloader, "dataset", None), "metainfo", None)


def keeps_position(part: Any) -> bool:
    """Return whether an iterable dataset or a loader saves its own position; see :class:`PositionTraits`."""
    return bool(getattr(part, "has_state", hasattr(part, "state_dict") and hasattr(part, "load_state_dict")))


def set_epoch(sampler: Any, epoch: int) -> None:
    """Select the epoch of a sampler, and of the one that a batch sampler draws from, where they have epochs."""
    parts: tuple[Any, ...] = (sampler, getattr(sampler, "sampler", None))
    for part in parts:
        if hasattr(part, "set_epoch"):
            part.set_epoch(epoch)
