"""The checkpoints that one hook keeps in a folder, and those to remove."""

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainwright.engine.checkpoints.durable import link_checkpoint, remove
from trainwright.engine.checkpoints.folder_reader import SUFFIX


class CheckpointFolder:
    """The regular checkpoints, the last one and the best one per metric, by name, so that the folder can be moved.

    Args:
        max_keep: number of regular checkpoints to keep; all if not positive.

    Attributes:
        path: the folder, or None until something is saved.
        regular: names of the regular checkpoints, oldest first.
        best: name of the best checkpoint per metric.
        best_scores: best score per metric.
        last: name of the newest regular checkpoint.
        last_at: iteration at which it was saved.
        obsolete: names of files to remove.
        unremoved: errors that prevented the removal of obsolete files, by name.
    """

    def __init__(self, max_keep: int = -1) -> None:
        self.max_keep = max_keep
        self.path: Path | None = None
        self.regular: list[str] = []
        self.best: dict[str, str] = {}
        self.best_scores: dict[str, float] = {}
        self.last: str | None = None
        self.last_at: int | None = None
        self.obsolete: list[str] = []
        self.unremoved: dict[str, OSError] = {}
        self._remembered: dict[str, Any] = {}

    @property
    def names(self) -> set[str]:
        """Names of the files to keep."""
        return {*self.regular, *self.best.values(), *([self.last] if self.last else [])}

    def file(self, name: str) -> Path:
        """Return the path of a file in the folder."""
        assert self.path is not None
        return self.path / name

    def add_regular(self, name: str, iteration: int) -> None:
        """Add a regular checkpoint; surplus ones become obsolete."""
        self.regular = [*(other for other in self.regular if other != name), name]
        self.last, self.last_at = name, iteration
        self.drop_surplus()

    def drop_surplus(self) -> None:
        """Mark all but the newest ``max_keep`` regular checkpoints as obsolete."""
        if self.max_keep > 0:
            self.obsolete += self.regular[: -self.max_keep]
            del self.regular[: -self.max_keep]

    def add_best(self, metric: str, score: float, name: str) -> None:
        """Add the best checkpoint of a metric; the previous one becomes obsolete."""
        previous = self.best.get(metric)
        if previous is not None and previous != name:
            self.obsolete.append(previous)
        self.best_scores[metric] = score
        self.best[metric] = name

    def forget_best(self, metric: str) -> str | None:
        """Forget the best score of a metric, and return the name of its file, which is not removed."""
        self.best_scores.pop(metric, None)
        return self.best.pop(metric, None)

    def missing(self, beside: Path | None = None) -> set[str]:
        """Return the names of missing files, after linking or copying missing best checkpoints from ``beside``."""
        for name in self.best.values():
            if beside is not None and (beside / name).exists() and not self.file(name).exists():
                with suppress(OSError):  # the file stays missing
                    self.file(name).parent.mkdir(parents=True, exist_ok=True)
                    link_checkpoint(beside / name, self.file(name))
        return {name for name in self.names if not self.file(name).exists()}

    def forget(self, names: Collection[str]) -> None:
        """Forget files, but keep their best scores."""
        self.regular = [name for name in self.regular if name not in names]
        self.best = {metric: name for metric, name in self.best.items() if name not in names}
        if self.last in names:
            self.last = self.last_at = None

    def remove_obsolete(self, in_use: Collection[str] = ()) -> None:
        """Remove obsolete files except those ``in_use`` by other hooks; files that cannot be removed stay obsolete."""
        for name in [name for name in self.obsolete if name not in in_use and name not in self.names]:
            path = self.file(name)
            try:
                remove(path) if path.suffix == SUFFIX else path.unlink(missing_ok=True)
            except OSError as error:
                self.unremoved[name] = error
            else:
                self.obsolete.remove(name)

    def remember(self) -> None:
        """Remember the current state for :meth:`undo`."""
        self._remembered = self.state_dict()

    def undo(self) -> None:
        """Go back to the remembered state because the checkpoints added since could not be written."""
        self.load_state_dict(self._remembered)

    def state_dict(self) -> dict[str, Any]:
        """Return the names and best scores."""
        return {
            "best_scores": dict(self.best_scores),
            "best_ckpts": dict(self.best),
            "keep_ckpts": list(self.regular),
            "last_ckpt": self.last,
            "last_at": self.last_at,
            "obsolete": list(self.obsolete),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the result of :meth:`state_dict`, except names that point outside the folder."""
        self.best = {metric: name for metric, name in state["best_ckpts"].items() if is_file_name(name)}
        self.best_scores = dict(state["best_scores"])
        self.regular = [name for name in state["keep_ckpts"] if is_file_name(name)]
        last = state["last_ckpt"]
        self.last = last if last is not None and is_file_name(last) else None
        self.last_at = state.get("last_at")
        self.obsolete = [name for name in state["obsolete"] if is_file_name(name)]


def is_file_name(name: str) -> bool:
    """Return whether a name refers to a file directly in the folder."""
    return name not in ("", ".", "..") and "/" not in name and "\\" not in name and "\0" not in name


def best_name(metric: str, regular: str) -> str:
    """Return the name of a metric's best checkpoint, given that of a regular checkpoint at the same iteration."""
    return f"best_{metric}_{regular}".replace("/", "_").replace("\\", "_")
