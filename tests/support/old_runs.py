"""The runs with checkpoints in ``tests/data``, which every later version must be able to read.

Those of version 0.1.0, at commit 207d1bc, were written with ``python -m old_runs tests/data``, with ``tests/support``
in ``PYTHONPATH``.
"""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from tiny_runs import Line, Points, Scripted, StopAt, make_runner

from trainwright.engine.run.runner import Runner

LOOPS = {
    "epochs": {"by_epoch": True, "max_epochs": 6},
    "iterations": {"by_epoch": False, "max_iters": 24, "val_interval": 4},
}
SCORES = (0.1, 0.3, 0.2, 0.2, 0.4, 0.4)
SAVED_AT = 11
"""Iterations before the save: the third of four in a pass over the data, in the middle of an accumulation window."""
VALIDATIONS = 2
"""The number of validations before the save."""


class NormalizedLine(Line):
    """A linear model after batch normalization, which has buffers."""

    def __init__(self) -> None:
        super().__init__(batch_norm=True)


def make_old_run(loop: str, work_dir: Path, *hooks: Any, validated: int = 0, **options: Any) -> Runner:
    """Return a run with every kind of state in a checkpoint.

    Args:
        loop: one of ``LOOPS``.
        work_dir: folder of the run.
        *hooks: additional hooks.
        validated: number of finished validations.
        **options: arguments of the Runner.
    """
    by_epoch = loop == "epochs"
    return make_runner(
        work_dir,
        [
            {"type": "EMAHook", "momentum": 0.1, "update_buffers": True},
            {"type": "EarlyStoppingHook", "monitor": "acc", "rule": "greater", "patience": 4},
            *hooks,
        ],
        model=NormalizedLine(),
        checkpoint={"interval": 1 if by_epoch else 4, "by_epoch": by_epoch, "save_best": "acc", "rule": "greater"},
        metric=Scripted(acc=SCORES[validated:]),
        dataset=Points(16),
        train_cfg=LOOPS[loop],
        optim_wrapper={"accumulative_counts": 2, "clip_grad": {"max_norm": 1.0}},
        param_scheduler=[
            {"type": "LinearLR", "start_factor": 0.1, "end": 5, "by_epoch": False},
            {"type": "CosineAnnealingLR", "begin": 1, "T_max": 5, "by_epoch": by_epoch},
            {"type": "ReduceOnPlateauLR", "monitor": "acc", "rule": "greater", "patience": 1},
            {"type": "StepMomentum", "step_size": 2, "gamma": 0.9, "by_epoch": by_epoch},
        ],
        **options,
    )


if __name__ == "__main__":
    for name in LOOPS:
        with tempfile.TemporaryDirectory() as folder:
            make_old_run(name, Path(folder), StopAt(SAVED_AT)).train()
            shutil.copyfile(Path(folder, f"iter_{SAVED_AT}.pth"), Path(sys.argv[1], f"version_0_1_0_{name}.pth"))
