"""Writing the checkpoints of a run, inline or in the background."""

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from trainwright.engine.accelerator import has_own_memory
from trainwright.engine.checkpoints import contents
from trainwright.engine.checkpoints.disk_space import bytes_of, check_space
from trainwright.engine.checkpoints.durable import link_checkpoint
from trainwright.engine.checkpoints.files import save_checkpoint, write_last_checkpoint
from trainwright.engine.checkpoints.folder_reader import SUFFIX
from trainwright.engine.checkpoints.folder_writer import write_folders
from trainwright.engine.checkpoints.mmengine_format import as_mmengine
from trainwright.engine.distributed import is_alone, is_distributed, is_main_process, value_of_main_process
from trainwright.engine.errors import CheckpointError
from trainwright.engine.ranks import failures
from trainwright.engine.trees import map_tensors

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner


class CheckpointWriter:
    """A writer that saves the checkpoints of a run one at a time, inline or in the background.

    All ranks make the same calls, and learn whether the checkpoint was written. Only rank 0 writes a file; all of them
    write a folder.
    """

    def __init__(self, runner: "Runner") -> None:
        self._runner = runner
        self._copier = HostCopier()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._finish: Callable[[BaseException | None], None] | None = None
        self._saved: dict[str, int] | None = None
        self._group: Any = None

    @property
    def is_saved(self) -> bool:
        """Whether the last complete checkpoint contains the current state of the run."""
        return self._saved == self._runner.state.state_dict()

    def mark_saved(self) -> None:
        """Mark the current state as saved, after resuming from the newest checkpoint."""
        self._saved = self._runner.state.state_dict()

    def prepare(self) -> None:
        """Wait for the previous checkpoint, and let hooks update the state before the caller decides what to write."""
        self.wait()
        self._runner.call_hook("before_snapshot")

    def write(
        self,
        paths: Sequence[Path],
        *,
        optimizer: bool = True,
        schedulers: bool = True,
        meta: Mapping[str, Any] | None = None,
        newest: bool = True,
        background: bool = False,
        mmengine_format: bool = False,
        then: Callable[[], None] | None = None,
        done: Callable[[OSError | None], None] | None = None,
    ) -> None:
        """Write the state of the run and flush it to disk. Call :meth:`prepare` first.

        Args:
            paths: the file, and additional names for it. If they end in ``.dist``, it is a folder to which every rank
                writes its own part.
            optimizer: include the state of the optimizer.
            schedulers: include the state of the schedulers.
            meta: additional entries of the checkpoint's ``meta``.
            newest: record the last path in ``last_checkpoint``.
            background: write on a thread, from a copy in host memory.
            mmengine_format: write a file that MMEngine can resume from.
            then: called after the file is on disk, on the thread that wrote it.
            done: called on the calling thread after writing, at the latest by :meth:`wait`, with the ``OSError`` if it
                failed.

        Raises:
            OSError: the disk is full or not writable, and ``done`` is None.
        """
        runner = self._runner
        counters = runner.state.state_dict()
        is_folder = paths[0].suffix == SUFFIX
        write: Callable[..., None] = _write_files
        if is_folder:
            write = partial(write_folders, group=self._folder_group())
        state = contents.collect_state(
            runner, optimizer=optimizer, schedulers=schedulers, meta=meta, gather=not is_folder
        )
        if is_folder or is_main_process():
            state = as_mmengine(state) if mmengine_format else state
            state = map_tensors(state, self._copier.begin() if background else lambda tensor: tensor.detach().cpu())
            work_dir = runner.work_dir if newest else None
            job = partial(write, state, paths, work_dir, then)
            if background:
                self._thread = threading.Thread(target=self._run, args=[job], name="checkpoint", daemon=True)
                self._thread.start()
            else:
                self._run(job)
        self._finish = partial(self._settle, counters if optimizer and schedulers else None, done)
        if not background:
            self.wait()

    def wait(self, *, together: bool = True) -> None:
        """Wait for the checkpoint that is being written.

        Args:
            together: all ranks wait, and learn of an error. Set to false after another error, when some may have ended.

        Raises:
            Exception: the error of writing it, or of its ``done``.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        finish, self._finish = self._finish, None
        error, self._error = self._error, None
        if finish is None:
            return
        try:
            if together:
                error = _error_of_main_process(error)
        except RuntimeError as lost:
            with suppress(Exception):  # the lost connection is the one to report
                finish(OSError(f"another rank has failed ({lost})"))
            raise
        finish(error)

    def _folder_group(self) -> Any:
        """Return a group for folders that are written in the background; the first call creates it."""
        if self._group is None and is_distributed():
            self._group = dist.new_group(backend="gloo")
        return self._group

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:  # re-raised by wait()
            self._error = error

    def _settle(
        self,
        counters: dict[str, int] | None,
        done: Callable[[OSError | None], None] | None,
        error: BaseException | None,
    ) -> None:
        if error is not None and is_alone() and failures.is_lost_connection(error):
            error = OSError(f"another rank has failed while it was written ({error})")
        if error is not None and (done is None or not isinstance(error, OSError)):
            raise error
        if error is None and counters is not None:
            self._saved = counters
        if done is not None:
            done(error)


def _error_of_main_process(error: BaseException | None) -> BaseException | None:
    """Return the error of rank 0 in every rank, so that all of them do the same next."""
    text = None if error is None else f"rank 0: {error}"
    is_of_disk, text = value_of_main_process((isinstance(error, OSError), text))
    if is_main_process():
        return error
    if text is None:
        return None
    return error or (OSError(text) if is_of_disk else CheckpointError(text))


def _write_files(
    state: Mapping[str, Any], paths: Sequence[Path], work_dir: str | None, then: Callable[[], None] | None
) -> None:
    new = [path for path in paths if not path.exists()]
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    check_space(paths[0].parent, bytes_of(state))
    try:
        save_checkpoint(state, paths[0])
        for path in paths[1:]:
            link_checkpoint(paths[0], path)
        if work_dir is not None:
            write_last_checkpoint(work_dir, paths[-1].absolute())
    except OSError:
        for path in new:
            path.unlink(missing_ok=True)  # otherwise it would be orphaned
        raise
    if then is not None:
        then()


class HostCopier:
    """A copier of tensors to host memory that reuses its buffers: allocating new ones takes ten times as long.

    Copies of tensors that share memory (tied weights, views) share memory too, so the file does not grow. The memory of
    an accelerator is copied to pinned memory.
    """

    def __init__(self) -> None:
        self._buffers: list[torch.UntypedStorage] = []
        self._copied: dict[int, torch.UntypedStorage] = {}

    def begin(self) -> Callable[[Tensor], Tensor]:
        """Return the function that copies a tensor; it overwrites earlier copies."""
        self._copied = {}
        return self._copy

    def _copy(self, tensor: Tensor) -> Tensor:
        if tensor.layout != torch.strided or tensor.is_quantized or type(tensor) not in (Tensor, torch.nn.Parameter):
            return tensor.detach().to("cpu", copy=True)
        storage = tensor.untyped_storage()
        if storage._cdata not in self._copied:
            buffer = self._buffer(len(self._copied), storage)
            buffer.copy_(storage)
            self._copied[storage._cdata] = buffer
        host = torch.empty(0, dtype=tensor.dtype)
        return host.set_(self._copied[storage._cdata], tensor.storage_offset(), tensor.shape, tensor.stride())

    def _buffer(self, index: int, storage: torch.UntypedStorage) -> torch.UntypedStorage:
        size = storage.nbytes()
        if index < len(self._buffers) and self._buffers[index].nbytes() == size:
            return self._buffers[index]
        pinned = has_own_memory(storage.device)
        del self._buffers[index:]
        self._buffers.append(torch.empty(size, dtype=torch.uint8, pin_memory=pinned).untyped_storage())
        return self._buffers[index]
