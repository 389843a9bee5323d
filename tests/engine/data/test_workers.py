"""Data workers that die at any point: an error while waiting for a batch, never an endless wait."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from fake_accelerator import pretend_accelerator
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, get_worker_info
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from trainwright.engine.data.loader import build_dataloader, iterate
from trainwright.engine.data.workers import WorkerDied, batches_from_workers, num_oom_kills, stop_workers
from trainwright.engine.errors import TrainingError


class Samples(Dataset[Any]):
    def __init__(self, load: Callable[[int], Any]) -> None:
        self._load = load

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> Any:
        return self._load(index)


def broken(index: int) -> Any:
    raise ConnectionResetError(f"server of sample {index}")


@contextmanager
def time_limit(seconds: int = 20) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError("waited forever")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def exhaust(batches: Iterator[Any]) -> None:
    for _ in batches:
        pass


def test_a_worker_dies_in_the_middle_of_sending_a_batch() -> None:
    raw: Any = iter(DataLoader(Samples(lambda index: bytes(1 << 20)), num_workers=2, collate_fn=list))
    batches = batches_from_workers(raw)
    time.sleep(0.5)  # a pipe holds 64 KiB, so the worker waits in the middle of its batch
    os.kill(raw._workers[0].pid, signal.SIGKILL)
    pid = raw._workers[0].pid
    with time_limit(), pytest.raises(WorkerDied, match=f"data worker {pid} was killed by signal 9$"):
        exhaust(batches)


class Stream(IterableDataset[Any]):
    """A short stream in the first worker, a long one in the others."""

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        assert info is not None
        yield from (bytes(1 << 20) for _ in range(2 if info.id == 0 else 20))


@pytest.mark.parametrize("persistent", [False, True])
def test_the_worker_of_a_stream_dies_in_the_middle_of_sending_a_batch(persistent: bool) -> None:
    cfg = dict(dataset=Stream(), num_workers=2, persistent_workers=persistent, batch_size=1)
    loader: Any = build_dataloader(cfg, seed=0)
    with time_limit():
        assert len(list(iterate(loader))) == 22  # the end of a worker's data is not a death
        positioned = iter(iterate(loader))
        for _ in range(8):  # the first worker is done
            next(positioned)
        time.sleep(0.5)
        os.kill(children()[-1], signal.SIGKILL)
        with pytest.raises(WorkerDied, match="killed by signal 9"):
            exhaust(positioned)


def children() -> list[int]:
    """Return the process IDs of the data workers that are alive, oldest first."""
    return sorted(child.pid for child in multiprocessing.active_children() if child.pid is not None)


def test_spawned_workers_load_the_same_batches() -> None:
    cfg = dict(dataset=TensorDataset(torch.arange(64)), batch_size=16, num_workers=1, multiprocessing_context="spawn")
    with time_limit(60):
        batches = list(iterate(build_dataloader(cfg, seed=0)))
    assert [int(value) for (values,) in batches for value in values] == list(range(64))


def test_a_connection_breaks_before_the_worker_has_ended() -> None:
    raw: Any = iter(DataLoader(Samples(torch.zeros), num_workers=1))
    batches = batches_from_workers(raw)
    next(batches)

    def reset(timeout: float) -> None:
        threading.Timer(0.2, raw._workers[0].kill).start()
        raise ConnectionResetError("Connection reset by peer")

    raw._data_queue.get = reset
    with time_limit(), pytest.raises(WorkerDied, match="data worker [0-9]+ was killed by signal 9$"):
        exhaust(batches)


@pytest.mark.parametrize(
    ("end", "problem"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "was killed by signal 11: a library crashed, .*browse-dataset"),
        (lambda: os.kill(os.getpid(), signal.SIGBUS), "was killed by signal 7: usually the shared memory is full"),
        (lambda: os._exit(3), "exited with status 3$"),
    ],
)
def test_the_cause_of_a_death_is_named(end: Callable[[], None], problem: str) -> None:
    raw: Any = iter(DataLoader(Samples(lambda index: end() if index == 7 else index), num_workers=2))
    with time_limit(), pytest.raises(WorkerDied, match=f"data worker [0-9]+ {problem}"):
        exhaust(batches_from_workers(raw))


def test_only_the_kernel_tells_of_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    kills = iter((2, 3))  # counted before and after the death
    monkeypatch.setattr("trainwright.engine.data.workers.num_oom_kills", lambda: next(kills))
    raw: Any = iter(DataLoader(Samples(torch.zeros), num_workers=1))
    batches = batches_from_workers(raw)
    os.kill(raw._workers[0].pid, signal.SIGKILL)
    with time_limit(), pytest.raises(WorkerDied, match="signal 9.*the kernel reports 1 out-of-memory kills: lower num"):
        exhaust(batches)


@pytest.mark.skipif(not Path("/proc/self/cgroup").exists(), reason="Linux only")
def test_out_of_memory_kills_are_counted() -> None:
    counts = [num_oom_kills() for _ in range(2)]
    assert 0 <= counts[0] <= counts[1]


def test_a_worker_dies_with_a_lock() -> None:
    raw: Any = iter(DataLoader(Samples(torch.zeros), num_workers=2))
    lock = raw._workers_done_event._cond
    batches = batches_from_workers(raw)
    next(batches)
    lock.acquire()
    os.kill(raw._workers[1].pid, signal.SIGKILL)
    with time_limit(), pytest.raises(WorkerDied):
        exhaust(batches)
    with time_limit():
        raw._shutdown_workers()


@pytest.mark.parametrize("moment", ["between batches", "while it sends"])
def test_a_worker_dies_whose_batches_are_pinned(monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    pretend_accelerator(monkeypatch)
    pinning, go_on = threading.Event(), threading.Event()

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinning.set()
        go_on.wait()
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)  # the thread that pins may end with an error
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.5,))  # 5 s in PyTorch
    raw: Any = iter(DataLoader(Samples(lambda index: [torch.ones(1), bytes(1 << 20)]), num_workers=2, pin_memory=True))
    batches = batches_from_workers(raw)
    if moment == "between batches":
        go_on.set()
        next(batches)
    else:  # the thread is busy, so the other worker has to wait in the middle of its batch
        pinning.wait()
        time.sleep(0.3)
    for worker in raw._workers:
        os.kill(worker.pid, signal.SIGKILL)
    time.sleep(0.3)
    go_on.set()
    with time_limit(), pytest.raises(WorkerDied):
        exhaust(batches)
    with time_limit():
        raw._shutdown_workers()


def test_persistent_workers_that_die_between_passes_are_replaced() -> None:
    config = dict(dataset=Samples(torch.ones), num_workers=2, persistent_workers=True, batch_size=16, collate_fn=len)
    loader = build_dataloader(config, seed=0)
    assert list(iterate(loader)) == [16] * 4
    os.kill(loader._iterator._workers[0].pid, signal.SIGKILL)  # type: ignore[union-attr]
    with time_limit():
        assert list(iterate(loader)) == [16] * 4
    stop_workers(loader)


class Forks:
    """Forked processes of these tests, some of which hang before they run any code of PyTorch.

    The parent decides, without a lock: processes forked by other tests, which may be killed at any moment, run this.
    """

    to_hang = 0
    hangs = False

    @classmethod
    def decide(cls) -> None:
        cls.hangs = cls.to_hang > 0
        cls.to_hang -= cls.hangs

    @classmethod
    def hang(cls) -> None:
        while cls.hangs:
            time.sleep(60)


os.register_at_fork(before=Forks.decide, after_in_child=Forks.hang)


@pytest.fixture
def hanging_forks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Return a function that makes a number of forked processes hang as at a lock, immune to SIGTERM."""
    monkeypatch.setattr("trainwright.engine.data.workers.START_TIMEOUTS", (1, 1))
    handler = signal.signal(signal.SIGTERM, lambda number, frame: None)

    def begin(number: int) -> None:
        # As in a new process, PyTorch's handler raises an error wherever the main process is when a worker dies.
        monkeypatch.setattr("torch.utils.data._utils.signal_handling._SIGCHLD_handler_set", False)
        Forks.to_hang = number

    yield begin
    Forks.to_hang = 0
    signal.signal(signal.SIGTERM, handler)


class Numbers(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        assert info is not None
        yield from range(info.id, 8, info.num_workers)


@pytest.mark.parametrize("kind", ["samples", "middle", "persistent", "stream", "foreign"])
def test_a_worker_that_does_not_start_is_replaced(
    kind: str, hanging_forks: Callable[[int], None], log: pytest.LogCaptureFixture
) -> None:
    cfg: dict[str, Any] = dict(dataset=Samples(int), num_workers=2, batch_size=8, collate_fn=dict(type="whole_batch"))
    cfg |= {"persistent_workers": True} if kind == "persistent" else {}
    cfg |= {"dataset": Numbers(), "batch_size": 1} if kind == "stream" else {}
    loader: Any = build_dataloader(cfg, seed=0)
    if kind == "foreign":
        loader = DataLoader(Samples(int), batch_size=8, num_workers=2, collate_fn=list)
    expected = list(iterate(loader))
    if kind == "middle":
        loader.start(0, batch=3)
        expected = expected[3:]
    stop_workers(loader)
    before = children()  # of other tests
    hanging_forks(1)
    with time_limit():
        assert list(iterate(loader)) == expected
        assert len(log.records) == 1
        assert "1 of 2 data workers did not start within 1 s: a lock was held" in log.text
        stop_workers(loader)
        assert children() == before


def test_workers_that_never_start_end_the_run(hanging_forks: Callable[[int], None]) -> None:
    loader, before = build_dataloader(dict(dataset=Samples(int), num_workers=1), seed=0), children()
    hanging_forks(10)
    with time_limit(), pytest.raises(TrainingError, match="2 times in a row: set multiprocessing_context='forkserver'"):
        exhaust(iterate(loader))
    assert children() == before


def test_an_error_of_a_sample_is_not_taken_for_a_death() -> None:
    loader = build_dataloader(dict(dataset=Samples(broken), num_workers=1), seed=0)
    with pytest.raises(ConnectionResetError, match="server of sample"):
        exhaust(iterate(loader))


def test_the_waiting_thread_ends_with_the_workers() -> None:
    def waiting() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "data workers"]

    loader = DataLoader(Samples(torch.zeros), num_workers=2, collate_fn=len, persistent_workers=True)
    before = set(waiting())
    for _ in range(3):
        exhaust(iterate(loader))
    (thread,) = set(waiting()) - before
    loader._iterator._shutdown_workers()  # type: ignore[union-attr]
    thread.join(10)
    assert not thread.is_alive()
