"""Whatever the settings, and wherever the cut: a resumed run ends with the bits of the run that was never cut."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from checkpoint_bits import different_bits
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from resume_runs import StopAt, make_run

from trainwright.engine.checkpoint import load_checkpoint_file


def end_of(folder: Path, cuts: list[int], **run: Any) -> Path:
    """Trains, stopped after some iterations and resumed each time, and returns the last checkpoint."""
    for number, cut in enumerate(cuts):
        make_run(folder, hooks=[StopAt(cut)], resume=number > 0, **run).train()
    make_run(folder, resume=bool(cuts), **run).train()
    return folder / (folder / "last_checkpoint").read_text()


RUNS = st.fixed_dictionaries(
    {
        "by_epoch": st.booleans(),
        "length": st.integers(1, 3),
        "batch_size": st.sampled_from([3, 4, 7]),
        "sampler": st.sampled_from(["DefaultSampler", "InfiniteSampler", "ClassAwareSampler"]),
        "wrapper": st.sampled_from([None, None, "repeat", "concat", "balanced"]),
        "accumulate": st.sampled_from([1, 1, 2, 3]),
        "amp": st.booleans(),
        "ema": st.booleans(),
        "validate": st.booleans(),
        "optimizer": st.sampled_from(["SGD", "AdamW", "Adagrad", "RMSprop"]),
    }
)
MOST_CUTS = 3


def check(run: dict[str, Any], cuts: list[int], **resumed: Any) -> None:
    if run["by_epoch"] and run["sampler"] == "InfiniteSampler":
        run = {**run, "sampler": "DefaultSampler"}  # an endless stream has no epochs
    with tempfile.TemporaryDirectory() as folder:
        whole = end_of(Path(folder, "whole"), [], **run)
        iterations = load_checkpoint_file(whole)["meta"]["iter"]
        again = end_of(Path(folder, "cut"), sorted({cut for cut in cuts if cut < iterations}), **{**run, **resumed})
        assert different_bits(again, whole) == []


@settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],  # what fails is small already
)
@given(RUNS, st.lists(st.integers(1, 30), min_size=1, max_size=MOST_CUTS), st.sampled_from([0, 0, 0, 0, 0, 0, 1, 4]))
@example(dict(by_epoch=True, length=2, batch_size=4, sampler="DefaultSampler", wrapper=None, accumulate=4, amp=True, ema=True, validate=True, optimizer="AdamW"), [6, 7], 0)  # fmt: skip
def test_a_run_that_was_cut_ends_with_the_same_bits(run: dict[str, Any], cuts: list[int], workers: int) -> None:
    check(run, cuts, workers=workers)


@pytest.mark.parametrize(
    ("workers", "persistent", "by_epoch"), [(1, False, True), (4, False, False), (2, True, True), (1, True, False)]
)
def test_so_it_does_with_data_workers_and_with_another_number_of_them(
    workers: int, persistent: bool, by_epoch: bool
) -> None:
    run = dict(
        by_epoch=by_epoch, length=2, batch_size=4, sampler="DefaultSampler", wrapper="concat", accumulate=2, amp=False,
        ema=True, validate=True, optimizer="AdamW",
    )  # fmt: skip
    check(run, [3, 8], workers=workers, persistent=persistent)
