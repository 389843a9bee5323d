"""The starting point of a run: nothing, the weights of a checkpoint, or its full state."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from trainwright.engine.checkpoints.files import find_latest_checkpoint, load_checkpoint_file, verify
from trainwright.engine.checkpoints.folder_reader import load_folder
from trainwright.engine.checkpoints.mmengine_format import as_ours
from trainwright.engine.distributed import is_main_process, value_of_main_process
from trainwright.engine.errors import CheckpointError
from trainwright.engine.ranks.start import may_restart, restarts
from trainwright.engine.records.logger import get_logger

AUTO = "auto"
FIRST_ATTEMPT = ".first_attempt"
"""A file that marks when torchrun started a job for the first time, to tell its checkpoints from earlier ones."""


@dataclass(frozen=True)
class StartingPoint:
    """The starting point of a run.

    Args:
        path: the checkpoint file, or None for a run from scratch.
        contents: the contents of the file.
        resumes: whether the run continues from the full state of the checkpoint, not only from its weights.
    """

    path: str | None = None
    contents: dict[str, Any] = field(default_factory=dict)
    resumes: bool = False

    @classmethod
    def find(
        cls, work_dir: str | Path, load_from: str | None, resume: bool | str, like: nn.Module | None = None
    ) -> "StartingPoint":
        """Choose and load the checkpoint that a run starts from. Rank 0 chooses for all ranks.

        When resuming, the run's own checkpoints take precedence over ``load_from``, which is used only if there are
        none. A ``load_from`` in the work dir is one of the run's own checkpoints. After a restart by torchrun, a job
        resumes from its own newest checkpoint in any case.

        Args:
            work_dir: the run's folder.
            load_from: a checkpoint to load the initial weights from.
            resume: ``"auto"`` to resume from the newest checkpoint in ``work_dir``, or else to start a new run; True
                for the same, but without a checkpoint ``load_from`` is resumed, as in MMEngine; a path to resume from
                that checkpoint.
            like: a sharded model; of a sharded checkpoint, only the parts of this rank are loaded.

        Raises:
            CheckpointError: the file is missing or corrupt.
        """
        path, resumes = _decided_by_main(lambda: _choose(Path(work_dir), load_from, resume))
        if path is None:
            return cls()
        if Path(path).is_dir():
            return cls(path, load_folder(Path(path), like=like, verified=True), resumes)
        return cls(path, as_ours(load_checkpoint_file(path)), resumes)

    @property
    def seed(self) -> int | None:
        """Seed of the resumed run."""
        seed = self.contents.get("meta", {}).get("seed") if self.resumes else None
        return None if seed is None else int(seed)

    def is_resumed(self, checkpoint: Mapping[str, Any]) -> bool:
        """Return whether ``checkpoint`` is the one the run resumes from, not one loaded only for its weights."""
        return self.resumes and checkpoint is self.contents

    def release(self) -> None:
        """Free everything but the meta information, once it has been loaded."""
        for key in self.contents.keys() - {"meta"}:
            del self.contents[key]


def _decided_by_main(choose: Callable[[], tuple[str | None, bool]]) -> tuple[str | None, bool]:
    """Return the choice of rank 0, so that all ranks start from the same checkpoint, or raise its error on all."""
    choice: Any = None
    if is_main_process():
        try:
            choice = path, _ = choose()
            if path is not None and Path(path).is_dir() and (problem := verify(path)) is not None:
                raise CheckpointError(f"{path} cannot be read: {problem}")
        except CheckpointError as error:
            choice = error
    choice = value_of_main_process(choice)
    if isinstance(choice, CheckpointError):
        raise choice
    return choice  # type: ignore[no-any-return]


def _choose(work_dir: Path, load_from: str | None, resume: bool | str) -> tuple[str | None, bool]:
    """Return the checkpoint to start from, if there is one, and whether to resume from it."""
    if restarts() > 0:
        newest, skipped = find_latest_checkpoint(work_dir, since=work_dir / FIRST_ATTEMPT)
        _warn_of(skipped)
        if newest is not None:
            get_logger().info("Restart %d: resuming from %s", restarts(), newest)
            return str(newest), True
        get_logger().info("Restart %d: there is no checkpoint of this job yet, so it starts as before", restarts())
    elif may_restart():
        (work_dir / FIRST_ATTEMPT).touch()
    if not resume:
        return load_from, False
    if isinstance(resume, str) and resume != AUTO:
        return resume, True
    if load_from is not None and Path(load_from).resolve().is_relative_to(work_dir.resolve()):
        return load_from, True
    newest, skipped = find_latest_checkpoint(work_dir)
    _warn_of(skipped)
    if newest is not None:
        return str(newest), True
    nothing = f"Nothing to resume in {work_dir}"
    if load_from is None:
        get_logger().info("%s: starting from scratch", nothing)
    elif resume == AUTO:
        get_logger().info("%s: starting at iteration 0 from the weights of %s", nothing, load_from)
    else:
        get_logger().warning(
            "%s: resuming from load_from, %s (to start at iteration 0 from its weights, set resume='auto')",
            nothing, load_from,
        )  # fmt: skip
    return load_from, load_from is not None and resume is True


def _warn_of(skipped: list[str]) -> None:
    for line in skipped:
        get_logger().warning("skipped %s", line)
