"""Several data loaders, which training reads together, and evaluation one after the other."""

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from trainwright.engine.data.loader import build_dataloader, is_endless, iterate, start_at
from trainwright.engine.parts import ENDS_WITH, EPOCH_ENDS, SEVERAL_LOADERS_KEYS, loader_names
from trainwright.engine.random_streams import mix
from trainwright.engine.records.log_processor import num_batches

_END = object()


class NamedBatches(dict[str, Any]):
    """The batches of several data loaders for one iteration, by name."""


class NamedLoaders:
    """Several data loaders by name.

    In training, each iteration takes one batch of each. An epoch ends with the loader :attr:`lead`; the others continue
    in the next epoch where they are, and begin their data again when it ends, in a new order.

    Args:
        loaders: the data loaders. They are attributes, too.
        ends_with: ``longest``, ``shortest``, or the name of the loader with which an epoch ends; None if the loaders
            are read one after the other.
    """

    def __init__(self, loaders: Mapping[str, Any], ends_with: str | None) -> None:
        self.loaders = dict(loaders)
        self.ends_with = ends_with

    def __getattr__(self, name: str) -> Any:
        loaders = self.__dict__.get("loaders", {})
        if name in loaders:
            return loaders[name]
        raise AttributeError(f"there are several data loaders, {', '.join(loaders)}: none is meant by {name!r}")

    @property
    def lead(self) -> str | None:
        """The name of the loader with which an epoch ends; None if the lengths that decide it are unknown."""
        if self.ends_with in self.loaders:
            return self.ends_with
        lengths = {name: None if is_endless(each) else num_batches(each) for name, each in self.loaders.items()}
        known = {name: length for name, length in lengths.items() if length is not None}
        if self.ends_with == EPOCH_ENDS[1]:
            return min(known, key=known.__getitem__, default=None)
        return max(known, key=known.__getitem__) if len(known) == len(lengths) else None

    def __len__(self) -> int:
        if self.ends_with is None:
            return sum(len(loader) for loader in self.loaders.values())
        if self.lead is None:
            raise TypeError("the data loader with which an epoch ends has no length")
        return len(self.loaders[self.lead])

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches of one epoch, for loops that do not use the engine's cursors."""
        if self.ends_with is None:
            for loader in self.loaders.values():
                yield from iterate(loader)
            return
        lead = self.lead
        batches = {name: iter(iterate(loader)) for name, loader in self.loaders.items()}
        passes = {name: getattr(getattr(loader, "order", None), "epoch", 0) for name, loader in self.loaders.items()}
        while True:
            taken = NamedBatches()
            for name, loader in self.loaders.items():
                batch = next(batches[name], _END)
                if batch is _END and name != lead:
                    passes[name] += 1
                    start_at(loader, passes[name], 0)
                    batches[name] = iter(iterate(loader))
                    batch = next(batches[name], _END)
                if batch is _END:
                    return
                taken[name] = batch
            yield taken


def build_dataloaders(cfg: Any, *, seed: int, path: str, training: bool, **options: Any) -> Any:
    """Build a data loader from its config, or :class:`NamedLoaders` from a config with several by name.

    Each of several loaders has a seed of its own, so that two with the same data do not have it in the same order.

    Args:
        cfg: the config, or a loader.
        seed: seed of the run.
        path: dotted path of ``cfg``, for messages.
        training: whether the loaders are for training.
        **options: further arguments of :func:`~trainwright.engine.data.loader.build_dataloader`.
    """
    names = loader_names(cfg)
    if not names:
        return build_dataloader(cfg, seed=seed, path=path, training=training, **options)
    loaders = {}
    for name in names:
        own_seed = mix(seed, zlib.crc32(name.encode())) & 0x7FFFFFFF
        loaders[name] = build_dataloader(cfg[name], seed=own_seed, path=f"{path}.{name}", training=training, **options)
    return NamedLoaders(loaders, cfg.get(ENDS_WITH, SEVERAL_LOADERS_KEYS[ENDS_WITH].default) if training else None)


def loaders_of(dataloader: Any, path: str) -> dict[str, Any]:
    """Return the data loaders of a mode by their paths in the config: one, or several."""
    if isinstance(dataloader, NamedLoaders):
        return {f"{path}.{name}": loader for name, loader in dataloader.loaders.items()}
    return {path: dataloader}


def batches_of(batch: Any, path: str) -> dict[str, Any]:
    """Return the batches of one iteration by the paths of their data loaders."""
    if isinstance(batch, NamedBatches):
        return {f"{path}.{name}": each for name, each in batch.items()}
    return {path: batch}


def joined(dataloader: Any, batches: Mapping[str, Any]) -> Any:
    """Return the batch of one iteration, given the batches of the data loaders of a mode in their order."""
    if isinstance(dataloader, NamedLoaders):
        return NamedBatches(zip(dataloader.loaders, batches.values()))
    return next(iter(batches.values()))
