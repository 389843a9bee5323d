"""A batch for an estimate: from the train pipeline of the config, or made up from the shape of an input."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from trainwright.engine.config.config import Config
from trainwright.engine.data.loader import build_dataloader, iterate, start_at
from trainwright.engine.data.several import NamedBatches
from trainwright.engine.errors import ConfigError
from trainwright.engine.estimate.mistakes import as_config_error
from trainwright.engine.parts import dataloaders, loader_names
from trainwright.engine.registry import default_scope
from trainwright.engine.run.micro_batches import num_samples
from trainwright.engine.structures.instance_data import InstanceData
from trainwright.engine.structures.pixel_data import PixelData
from trainwright.engine.structures.sample import DataSample

_OF_WORKERS = ("num_workers", "persistent_workers", "prefetch_factor", "timeout", "pin_memory", "worker_init_fn")
_HINT = "give --input-shape, such as 3,224,224, to estimate without data"


def read_batch(cfg: Config) -> Any:
    """Return the first training batch of a process, with real tensors.

    Raises:
        ConfigError: the data cannot be read, or is less than a batch.
    """
    if cfg.get("train_dataloader") is None:
        raise ConfigError("train_dataloader", "missing", _HINT)
    sizes = [loader.get("batch_size") for _, loader in dataloaders(cfg, "train_dataloader")]
    size = None if None in sizes else sum(sizes)
    batch = None
    with as_config_error("train_dataloader", "a batch cannot be read", _HINT), suppress(StopIteration):
        batch = _first_batch(cfg, {})
    if size is not None and num_samples(batch) < size:
        message = f"the dataset has {num_samples(batch)} samples for a batch of {size}"
        raise ConfigError("train_dataloader", message, _HINT)
    return batch


def made_batches(cfg: Config, shape: Sequence[int], dtype: torch.dtype) -> Iterator[tuple[str, Any]]:
    """Yield batches of zeros with the annotations of common tasks, one of which may suit the model.

    Args:
        cfg: the whole config, for the batch size and the collate function.
        shape: shape of the input of one sample.
        dtype: dtype of the input.

    Yields:
        The kind of annotations, and a batch.
    """
    inputs = torch.zeros(*shape, dtype=dtype)
    samples: dict[str, Any] = {
        "a data sample": {"inputs": inputs, "data_samples": _annotated(inputs)},
        "a label": (inputs, 0),
        "a label for each position": (inputs, torch.zeros(*shape[:1], dtype=torch.int64)),
    }
    no_data = {"sampler": None, "batch_sampler": None}
    for annotations, sample in samples.items():
        try:
            batch = _first_batch(cfg, {**no_data, "dataset": _Repeated(sample)})
        except (TypeError, ValueError, AttributeError, KeyError, RuntimeError):  # not what the collate function expects
            continue
        yield annotations, batch


def _first_batch(cfg: Config, changes: dict[str, Any]) -> Any:
    batches = {}
    with default_scope(cfg.get("default_scope")):
        for path, given in dataloaders(cfg, "train_dataloader"):
            options: dict[str, Any] = {**copy.deepcopy(given or {}), **changes}
            options = {key: value for key, value in options.items() if key not in _OF_WORKERS and value is not None}
            loader = build_dataloader(options, seed=0, rank_seed=0, path=path, training=True)
            start_at(loader, 0, 0)
            batches[path.rpartition(".")[2]] = next(iter(iterate(loader)))
    return NamedBatches(batches) if loader_names(cfg.get("train_dataloader")) else batches["train_dataloader"]


def _annotated(inputs: Tensor) -> DataSample:
    """Return a sample with a label, and for images a segmentation map and one box with a mask."""
    sample = DataSample().set_gt_label(0)
    if inputs.dim() >= 2:
        height, width = inputs.shape[-2:]
        sample.set_metainfo({"img_shape": (height, width), "ori_shape": (height, width), "scale_factor": (1.0, 1.0)})
        sample.gt_sem_seg = PixelData(sem_seg=torch.zeros(1, height, width, dtype=torch.int64))
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor([[0.0, 0.0, width, height]]), labels=torch.zeros(1, dtype=torch.int64),
            masks=torch.zeros(1, height, width, dtype=torch.uint8),
        )  # fmt: skip
    return sample


class _Repeated(Dataset[Any]):
    """A dataset of one item, as often as it is needed."""

    metainfo = ()

    def __init__(self, item: Any) -> None:
        self.item = item

    def __len__(self) -> int:
        return 1 << 20

    def __getitem__(self, index: int) -> Any:
        return self.item
