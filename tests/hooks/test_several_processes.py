"""Hooks that must act the same way on all ranks, with two real processes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_group
from report_runs import SEGMENTED, run_test
from tiny_runs import files_in, runs_in_several_processes

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def results(folder: Path) -> list[dict[str, Any]]:
    return run_group(2, lambda: runs_in_several_processes(str(folder)), folder)


def test_sync_buffers_sets_the_mean_on_all_ranks(results: list[dict[str, Any]]) -> None:
    first, second = (result["apart"]["norm.running_mean"] for result in results)
    assert not torch.equal(first, second)
    first, second = (result["synced"] for result in results)
    assert torch.equal(first["norm.running_mean"], second["norm.running_mean"])
    assert torch.equal(first["norm.running_var"], second["norm.running_var"])
    assert first["norm.num_batches_tracked"] == second["norm.num_batches_tracked"] == 6


def test_all_roll_back_together(results: list[dict[str, Any]]) -> None:
    first, second = (result["rollback"] for result in results)
    assert first["times"] == second["times"] == 1
    assert first["weight"].isfinite().all()
    assert torch.equal(first["weight"], second["weight"])


def test_all_stop_together_when_one_rank_requests_it(results: list[dict[str, Any]]) -> None:
    first, second = (result["limit"] for result in results)
    assert first == second
    assert first >= 2  # the request of iteration 1 is sent with the next one


def test_only_one_rank_writes_checkpoints(folder: Path, results: list[dict[str, Any]]) -> None:
    assert files_in(folder / "saved") == ["best_acc_epoch_2.pth", "epoch_3.pth"]


def test_the_report_is_that_of_one_process(tmp_path: Path, results: list[dict[str, Any]]) -> None:
    """Eleven samples on two ranks: the sampler repeats the first one, which does not count."""
    (together, log_dir), (other, _) = (result["report"] for result in results)
    alone, alone_dir = run_test(str(tmp_path), **SEGMENTED)
    assert together == other == alone
    files = sorted(path.name for path in Path(log_dir, "test_report").iterdir())
    assert files == sorted(path.name for path in Path(alone_dir, "test_report").iterdir())
    for name in ("confusion_matrix_of_pixels.csv", "results_per_class_of_pixels.csv", "confusion_matrix.csv",
                 "lowest_iou.png", "most_confident_errors.png"):  # fmt: skip
        first, second = (Path(folder, "test_report", name).read_bytes() for folder in (log_dir, alone_dir))
        assert first == second, name
