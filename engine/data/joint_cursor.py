"""The position of a training run in the data of several loaders."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from trainwright.engine.data.cursor import END, DataCursor
from trainwright.engine.data.several import NamedBatches, NamedLoaders
from trainwright.engine.errors import CheckpointError, ConfigError, did_you_mean

if TYPE_CHECKING:
    from trainwright.engine.run.state import RunState

_LOADERS = "loaders"


class JointCursor:
    """The cursors of several data loaders that are read together, with the interface of :class:`DataCursor`.

    That of the loader which ends an epoch counts epochs. The others follow the iterations: pass follows pass, also from
    one epoch to the next. So each is where its own cursor would be in a run of its own, and each resumes exactly.

    Args:
        counters: the counters of the run.
        by_epoch: whether the loop counts epochs.
        dataloader: the loaders.

    Raises:
        ConfigError: the loop counts epochs, and the loader that ends one is unknown.
    """

    def __init__(self, counters: "RunState", by_epoch: bool, dataloader: NamedLoaders) -> None:
        self.dataloader = dataloader
        self._by_epoch = by_epoch
        self._reading = False  # the loaders beside the leading one are in the middle of their data
        lead = dataloader.lead
        if lead is None and by_epoch:
            message = f"a data loader has no end, so none is known to be the {dataloader.ends_with}"
            raise ConfigError("train_dataloader.ends_with", message, "set it to the name of one that has a length")
        self._lead = lead or next(iter(dataloader.loaders))
        self._cursors: dict[str, DataCursor] = {}
        for name, loader in dataloader.loaders.items():
            self._cursors[name] = cursor = DataCursor(counters, by_epoch and name == self._lead)
            cursor.dataloader = loader

    @property
    def leading(self) -> DataCursor:
        """The cursor of the loader that ends an epoch."""
        return self._cursors[self._lead]

    @property
    def length(self) -> int | None:
        """Number of iterations per epoch; None if unknown or infinite."""
        return self.leading.length if self.dataloader.lead else None

    def describe_batch(self, iteration: int) -> list[str]:
        """Return lines about the samples of an iteration, as far as they are known."""
        return [
            f"{name}: {line}" for name, cursor in self._cursors.items() for line in cursor.describe_batch(iteration)
        ]

    def describe_shares(self) -> str:
        """Describe how many samples of an iteration come from each loader, and how often an epoch repeats its data."""
        batchings = {name: cursor.batching for name, cursor in self._cursors.items()}
        total = sum(batching.samples or 0 for batching in batchings.values())
        parts = []
        for name, (_, samples, batches, _) in batchings.items():
            number = "1 batch" if samples is None else f"{samples} samples"
            known = all(batching.samples for batching in batchings.values())
            facts = [f"{samples / total:.0%}"] if samples and known else []
            if self.length and batches:
                facts.append(f"{self.length / batches:.3g} passes per epoch")
            parts.append(f"{number} of {name}" + (f" ({', '.join(facts)})" if facts else ""))
        end = f"; an epoch has {self.length} iterations, and ends with {self._lead}" if self.length else ""
        return f"Each iteration takes {', '.join(parts)}{end}"

    def seek(self) -> None:
        """Make a direct iteration over the loaders begin with their next batches, if supported."""
        for cursor in self._cursors.values():
            cursor.seek()

    def begin_run(self) -> None:
        """Prepare for a training: loaders that an earlier one has read are started again."""
        self._reading = False

    def open(self) -> None:
        """Start fetching at the next batches. After an epoch, only the loader that has ended it starts."""
        for cursor in self._cursors.values():
            if cursor is self.leading or not self._reading:
                cursor.open()
        self._reading = False

    def open_early(self) -> None:
        """Start iterators over the loaders now, and use them at the next start at the beginning of a pass."""
        for cursor in self._cursors.values():
            cursor.open_early()

    def reopen(self) -> None:
        """Discard prefetched batches and fetch them again, because data workers have copies of the old datasets."""
        for cursor in self._cursors.values():
            cursor.reopen()

    def replace(self, batches: Iterator[Any]) -> bool:
        """Refuse to continue with other batches.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("train_dataloader", "the batches of several data loaders cannot be replaced together")

    def close(self) -> None:
        """Stop fetching at the end of an epoch, except from the loaders that continue in the next one."""
        for cursor in self._cursors.values():
            if cursor is self.leading or not self._by_epoch:
                cursor.close()
        self._reading = self._by_epoch

    def next(self) -> Any:
        """Return the next batches by name; in an epoch-based loop, ``END`` after the last ones of an epoch."""
        first = self.leading.next()
        if first is END:
            return END
        return NamedBatches(
            {name: first if name == self._lead else cursor.next() for name, cursor in self._cursors.items()}
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the data of each loader."""
        return {"lead": self._lead, _LOADERS: {name: cursor.state_dict() for name, cursor in self._cursors.items()}}

    def load_state_dict(self, saved: Mapping[str, Any], load: Callable[[DataCursor, Any], str | None]) -> str | None:
        """Restore the positions, first that of the loader that ends an epoch. A new loader begins with its data.

        Args:
            saved: the saved positions.
            load: restores the position of one loader, and returns a message about what has changed.

        Returns:
            Lines about what has changed, or None.

        Raises:
            CheckpointError: an epoch ended with another loader.
        """
        states = saved[_LOADERS]
        if self._by_epoch and saved["lead"] != self._lead:
            hint = f"train_dataloader.ends_with={saved['lead']!r}" if saved["lead"] in self._cursors else "load_from"
            raise CheckpointError(
                f"in the checkpoint, an epoch ends with the data loader {saved['lead']!r}, but in this run with "
                f"{self._lead!r}: set {hint}"
            )
        messages = []
        for name, cursor in sorted(self._cursors.items(), key=lambda item: item[0] != self._lead):
            if name in states:
                message = load(cursor, states[name])
            else:
                cursor.begin_here()
                message = f"It is not in the checkpoint, and begins with its first sample. {did_you_mean(name, states)}"
            messages += [f"train_dataloader.{name}: {message.rstrip()}"] if message else []
        messages += [
            f"train_dataloader has no {name!r}, whose position is in the checkpoint." for name in states
            if name not in self._cursors
        ]  # fmt: skip
        return "\n".join(messages) or None


def make_cursor(counters: "RunState", by_epoch: bool, dataloader: Any) -> DataCursor | JointCursor:
    """Return the cursor of a data loader, or of several."""
    if isinstance(dataloader, NamedLoaders):
        return JointCursor(counters, by_epoch, dataloader)
    cursor = DataCursor(counters, by_epoch)
    cursor.dataloader = dataloader
    return cursor
