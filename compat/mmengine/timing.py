"""Timers and progress bars of MMEngine."""

import multiprocessing
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from time import time
from typing import Any, TextIO

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


class TimerError(Exception):
    """A timer that is not running was read."""

    def __init__(self, message: str) -> None:
        self.message = message
        super().__init__(message)


class Timer:
    """A stopwatch; as a context, it prints the seconds spent in the ``with`` block.

    Args:
        start: start at once.
        print_tmpl: format of the printed line.
    """

    def __init__(self, start: bool = True, print_tmpl: str | None = None) -> None:
        self._is_running = False
        self.print_tmpl = print_tmpl or "{:.3f}"
        if start:
            self.start()

    @property
    def is_running(self) -> bool:
        """Whether the timer is running."""
        return self._is_running

    def __enter__(self) -> "Timer":
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        print(self.print_tmpl.format(self.since_last_check()))
        self._is_running = False

    def start(self) -> None:
        """Start, or begin a new interval if the timer is running."""
        self._last = time()
        if not self._is_running:
            self._start, self._is_running = self._last, True

    def since_start(self) -> float:
        """Return the seconds since the start."""
        self._check()
        return self._last - self._start

    def since_last_check(self) -> float:
        """Return the seconds since the last call of this method, :meth:`since_start` or :meth:`start`."""
        self._check()
        return self._interval

    def _check(self) -> None:
        if not self._is_running:
            raise TimerError("this timer is not running: call start() first")
        now = time()
        self._interval, self._last = now - self._last, now


_g_timers: dict[str, Timer] = {}


def check_time(timer_id: str) -> float:
    """Return the seconds since the last call with this name, or 0 in the first call."""
    if timer_id in _g_timers:
        return _g_timers[timer_id].since_last_check()
    _g_timers[timer_id] = Timer()
    return 0


class ProgressBar:
    """A progress bar of one line.

    Args:
        task_num: number of tasks; if 0, there is only a counter.
        bar_width: maximum width of the bar in characters.
        start: start at once.
        file: stream to write to.
    """

    def __init__(self, task_num: int = 0, bar_width: int = 50, start: bool = True, file: TextIO = sys.stdout) -> None:
        self.task_num = task_num
        self.bar_width = bar_width
        self.completed = 0
        self.file = file
        if start:
            self.start()

    @property
    def terminal_width(self) -> int:
        """Width of the terminal in characters."""
        return shutil.get_terminal_size().columns

    def start(self) -> None:
        """Write the empty bar and start the clock."""
        if self.task_num > 0:
            self.file.write(f"[{' ' * self.bar_width}] 0/{self.task_num}, elapsed: 0s, ETA:")
        else:
            self.file.write("completed: 0, elapsed: 0s")
        self.file.flush()
        self.timer = Timer()

    def update(self, num_tasks: int = 1) -> None:
        """Count finished tasks."""
        assert num_tasks > 0
        self.completed += num_tasks
        elapsed = self.timer.since_start()
        speed = self.completed / elapsed if elapsed > 0 else float("inf")
        if self.task_num > 0:
            share = self.completed / self.task_num
            remaining = int(elapsed * (1 - share) / share + 0.5)
            line = (
                f"{self.completed}/{self.task_num}, {speed:.1f} task/s, "
                f"elapsed: {int(elapsed + 0.5)}s, ETA: {remaining:5}s"
            )
            width = max(2, min(self.bar_width, self.terminal_width - len(line) - 4, int(self.terminal_width * 0.6)))
            self.file.write(f"\r[{('>' * int(width * share)).ljust(width)}] {line}")
        else:
            self.file.write(f"completed: {self.completed}, elapsed: {int(elapsed + 0.5)}s, {speed:.1f} tasks/s")
        self.file.flush()


def _counted(tasks: Any) -> tuple[Iterable[Any], int]:
    """Return tasks and their number, given a sequence, or a tuple of an iterable and a number."""
    if isinstance(tasks, tuple):
        assert len(tasks) == 2 and isinstance(tasks[0], Iterable) and isinstance(tasks[1], int)
        return tasks
    if isinstance(tasks, Sequence):
        return tasks, len(tasks)
    raise TypeError(f"tasks must be a sequence, or a tuple of an iterable and its length, got {type(tasks)}")


def track_iter_progress(tasks: Any, bar_width: int = 50, file: TextIO = sys.stdout) -> Iterator[Any]:
    """Yield tasks, a sequence or a tuple of an iterable and its length, while showing a progress bar."""
    iterable, count = _counted(tasks)
    bar = ProgressBar(count, bar_width, file=file)
    for task in iterable:
        yield task
        bar.update()
    file.write("\n")


def track_progress(
    func: Callable[..., Any], tasks: Any, bar_width: int = 50, file: TextIO = sys.stdout, **kwargs: Any
) -> list[Any]:
    """Return ``func(task, **kwargs)`` of all tasks while showing a progress bar."""
    return [func(task, **kwargs) for task in track_iter_progress(tasks, bar_width, file)]


def init_pool(process_num: int, initializer: Any = None, initargs: tuple[Any, ...] | None = None) -> Any:
    """Return a pool of processes."""
    if initargs is not None and not isinstance(initargs, tuple):
        raise TypeError(f"initargs must be a tuple, got {type(initargs)}")
    return multiprocessing.Pool(process_num, initializer, initargs or ())


def track_parallel_progress(
    func: Callable[..., Any],
    tasks: Any,
    nproc: int,
    initializer: Callable[..., Any] | None = None,
    initargs: tuple[Any, ...] | None = None,
    bar_width: int = 50,
    chunksize: int = 1,
    skip_first: bool = False,
    keep_order: bool = True,
    file: TextIO = sys.stdout,
) -> list[Any]:
    """Return ``func(task)`` of all tasks, computed by several processes, while showing a progress bar.

    Args:
        func: the function, which must be picklable.
        tasks: a sequence, or a tuple of an iterable and its length.
        nproc: number of processes.
        initializer: function that each process calls first.
        initargs: its arguments.
        bar_width: maximum width of the bar in characters.
        chunksize: number of tasks that a process takes at once.
        skip_first: leave the first task of each process out of the estimated time.
        keep_order: return the results in the order of the tasks, not as they finish.
        file: stream to write to.
    """
    iterable, count = _counted(tasks)
    warm_up = nproc * chunksize if skip_first else 0
    results: list[Any] = []
    with init_pool(nproc, initializer, initargs) as pool:
        bar = ProgressBar(count - warm_up, bar_width, not skip_first, file)
        for result in (pool.imap if keep_order else pool.imap_unordered)(func, iterable, chunksize):
            results.append(result)
            if len(results) > warm_up:
                bar.update()
            elif len(results) == warm_up:
                bar.start()
        pool.close()
        pool.join()
    file.write("\n")
    return results


class _Worker:
    """Calls a function with the arguments of a task, and returns the result with the number of the task."""

    def __init__(self, func: Callable[..., Any]) -> None:
        self.func = func

    def __call__(self, numbered: tuple[int, Any]) -> tuple[int, Any]:
        index, task = numbered
        return index, self.func(*task) if isinstance(task, tuple | list) else self.func(task)


def track_progress_rich(
    func: Callable[..., Any],
    tasks: Iterable[Any] = (),
    task_num: int | None = None,
    nproc: int = 1,
    chunksize: int = 1,
    description: str = "Processing",
    color: str = "blue",
) -> list[Any]:
    """Return the results of a function, in the order of the tasks, while showing a colored progress bar.

    Args:
        func: the function; a task that is a tuple or list gives several arguments.
        tasks: the tasks; if empty, the function is called ``task_num`` times without arguments.
        task_num: number of tasks.
        nproc: number of processes.
        chunksize: number of tasks that a process takes at once.
        description: text beside the bar.
        color: color of the bar.

    Raises:
        TypeError: ``func`` cannot be called, or ``tasks`` cannot be iterated over.
        ValueError: ``task_num`` is missing or wrong, or ``nproc`` is not positive.
    """
    if not callable(func):
        raise TypeError(f"func must be callable, got {type(func)}")
    if not isinstance(tasks, Iterable):
        raise TypeError(f"tasks must be iterable, got {type(tasks)}")
    if nproc <= 0:
        raise ValueError(f"nproc must be at least 1, got {nproc}")
    if isinstance(tasks, Sized):
        if len(tasks) == 0:
            if task_num is None:
                raise ValueError("without tasks, set task_num")
            tasks = [()] * task_num
        elif task_num not in (None, len(tasks)):
            raise ValueError(f"task_num is {task_num}, but there are {len(tasks)} tasks")
        task_num = len(tasks)
    columns = (
        TextColumn("{task.description}"), BarColumn(complete_style=color), TimeRemainingColumn(),
        MofNCompleteColumn(), TaskProgressColumn(show_speed=True),
    )  # fmt: skip
    results: dict[int, Any] = {}
    with Progress(*columns) as progress:
        shown = progress.add_task(description, total=task_num)

        def collect(finished: Iterable[tuple[int, Any]]) -> None:
            for index, result in finished:
                results[index] = result
                progress.update(shown, advance=1)

        if nproc == 1:
            collect(map(_Worker(func), enumerate(tasks)))
        else:
            with multiprocessing.Pool(nproc) as pool:
                collect(pool.imap_unordered(_Worker(func), enumerate(tasks), chunksize))
    return [results[index] for index in range(len(results))]
