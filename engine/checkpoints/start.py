"""The starting point of a run: nothing, the weights of a checkpoint, or its full state."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainwright.engine.checkpoints.files import find_latest_checkpoint, load_checkpoint_file
from trainwright.engine.records.logger import get_logger

AUTO = "auto"


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
    def find(cls, work_dir: str | Path, load_from: str | None, resume: bool | str) -> "StartingPoint":
        """Choose and load the checkpoint that a run starts from.

        When resuming, the run's own checkpoints take precedence over ``load_from``, which is used only if there are
        none. A ``load_from`` in the work dir is one of the run's own checkpoints.

        Args:
            work_dir: the run's folder.
            load_from: a checkpoint to load the initial weights from.
            resume: ``"auto"`` to resume from the newest checkpoint in ``work_dir``, or else to start a new run; True
                for the same, but without a checkpoint ``load_from`` is resumed, as in MMEngine; a path to resume from
                that checkpoint.

        Raises:
            CheckpointError: the file is missing or corrupt.
        """
        if not resume:
            return cls._read(load_from, resumes=False)
        if isinstance(resume, str) and resume != AUTO:
            return cls._read(resume, resumes=True)
        if load_from is not None and Path(load_from).resolve().is_relative_to(Path(work_dir).resolve()):
            return cls._read(load_from, resumes=True)
        newest, skipped = find_latest_checkpoint(work_dir)
        for line in skipped:
            get_logger().warning("skipped %s", line)
        if newest is not None:
            return cls._read(str(newest), resumes=True)
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
        return cls._read(load_from, resumes=load_from is not None and resume is True)

    @classmethod
    def _read(cls, path: str | None, *, resumes: bool) -> "StartingPoint":
        return cls() if path is None else cls(path, load_checkpoint_file(path), resumes)

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
