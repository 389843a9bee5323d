"""What a run begins with: nothing, the weights in a checkpoint, or everything in it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainwright.engine.checkpoints.files import find_latest_checkpoint, load_checkpoint_file
from trainwright.engine.records.logger import get_logger

AUTO = "auto"


@dataclass(frozen=True)
class StartingPoint:
    """What a run begins with.

    Args:
        path: the checkpoint file, or None for a run from scratch.
        contents: what the file holds.
        resumes: whether the run continues where the checkpoint was written; otherwise only its weights count.
    """

    path: str | None = None
    contents: dict[str, Any] = field(default_factory=dict)
    resumes: bool = False

    @classmethod
    def find(cls, work_dir: str | Path, load_from: str | None, resume: bool | str) -> "StartingPoint":
        """Choose and read the checkpoint that a run begins with.

        A checkpoint of the run itself comes first: ``load_from`` names what the run began with, and counts only while
        there is nothing to resume. (A ``load_from`` in the work dir is itself a checkpoint of the run.)

        Args:
            work_dir: the run's folder.
            load_from: a checkpoint whose weights the run begins with.
            resume: ``"auto"`` for the newest checkpoint in ``work_dir``, and while there is none a new run; True
                likewise, but while there is none ``load_from`` is resumed, as in MMEngine; a path for that checkpoint.

        Raises:
            CheckpointError: the file is missing or damaged.
        """
        if not resume:
            return cls._read(load_from, resumes=False)
        if isinstance(resume, str) and resume != AUTO:
            return cls._read(resume, resumes=True)
        if load_from is not None and Path(load_from).resolve().is_relative_to(Path(work_dir).resolve()):
            return cls._read(load_from, resumes=True)
        newest, skipped = find_latest_checkpoint(work_dir)
        for line in skipped:
            get_logger().warning("passed over %s", line)
        if newest is not None:
            return cls._read(str(newest), resumes=True)
        if load_from is None:
            get_logger().info("There is nothing to resume in %s: the run starts from scratch.", work_dir)
        elif resume == AUTO:
            get_logger().info(
                "There is nothing to resume in %s: the run starts at iteration 0 from the weights of %s.",
                work_dir, load_from,
            )  # fmt: skip
        else:
            get_logger().warning(
                "There is nothing to resume in %s: the run of load_from, %s, is continued there. (To start at "
                "iteration 0 from its weights: resume='auto'.)",
                work_dir, load_from,
            )  # fmt: skip
        return cls._read(load_from, resumes=load_from is not None and resume is True)

    @classmethod
    def _read(cls, path: str | None, *, resumes: bool) -> "StartingPoint":
        return cls() if path is None else cls(path, load_checkpoint_file(path), resumes)

    @property
    def seed(self) -> int | None:
        """Seed of the run that is resumed."""
        seed = self.contents.get("meta", {}).get("seed") if self.resumes else None
        return None if seed is None else int(seed)

    def is_resumed(self, checkpoint: Mapping[str, Any]) -> bool:
        """Return whether ``checkpoint`` is the one that the run resumes, not one loaded for its weights."""
        return self.resumes and checkpoint is self.contents

    def release(self) -> None:
        """Forget all but the meta information, when everything else has been loaded."""
        for key in self.contents.keys() - {"meta"}:
            del self.contents[key]
