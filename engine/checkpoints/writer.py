"""Saving a run: in place or in the background, and so that a failing disk costs a warning and not the run."""

import errno
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainwright.engine.checkpoints import contents as snapshot
from trainwright.engine.run.model_setup import unwrap

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner

_BYTES_BESIDE_A_TENSOR = 256
_STATES_OF_ONE_PARAMETER = (("betas", 2), ("alpha", 1), ("momentum", 1), ("lr_decay", 1))


def collect(
    runner: "Runner",
    *,
    optimizer: bool = True,
    schedulers: bool = True,
    meta: Mapping[str, Any] | None = None,
    copier: "HostCopier | None" = None,
) -> dict[str, Any]:
    """Returns what a checkpoint holds, after the hooks have seen it, in host memory.

    Args:
        runner: the run.
        optimizer: include the optimizer.
        schedulers: include the schedulers.
        meta: further entries of ``meta``.
        copier: makes a copy that shares no memory with the run, so that it can go on while the checkpoint is written.
    """
    checkpoint = snapshot.take(runner, optimizer=optimizer, schedulers=schedulers, meta=meta)
    runner.call_hook("before_save_checkpoint", checkpoint=checkpoint)
    in_host: dict[str, Any] = _converted(checkpoint, _to_cpu if copier is None else copier.begin())
    return in_host


class HostCopier:
    """Copies tensors to host memory, each time to the same: getting new memory would take ten times as long.

    Tensors that share memory (tied weights, views) share it afterwards too, so a file of them does not grow. The
    memory of a CUDA device is copied to pinned memory.
    """

    def __init__(self) -> None:
        self._buffers: list[torch.UntypedStorage] = []
        self._copied: dict[int, torch.UntypedStorage] = {}

    def begin(self) -> Callable[[Tensor], Tensor]:
        """Returns what copies a tensor; from now on the copies made before are overwritten."""
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
        pinned = storage.device.type == "cuda"
        del self._buffers[index:]
        self._buffers.append(torch.empty(size, dtype=torch.uint8, pin_memory=pinned).untyped_storage())
        return self._buffers[index]


def _to_cpu(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu()


def _converted(value: Any, convert: Callable[[Tensor], Tensor]) -> Any:
    """Returns the same containers with every tensor converted."""
    if isinstance(value, Tensor):
        return convert(value)
    if isinstance(value, Mapping):
        return {key: _converted(item, convert) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_converted(item, convert) for item in value)
    return value


def bytes_of(checkpoint: Any) -> int:
    """Returns about how many bytes a checkpoint takes on the disk: its tensors, those that share memory once."""
    sizes: dict[int, int] = {}
    number = 0
    for tensor in _tensors(checkpoint):
        number += 1
        sizes[tensor.untyped_storage()._cdata if tensor.layout == torch.strided else id(tensor)] = (
            tensor.untyped_storage().nbytes() if tensor.layout == torch.strided else tensor.numel() * tensor.itemsize
        )
    return sum(sizes.values()) + number * _BYTES_BESIDE_A_TENSOR


def expected_bytes(runner: "Runner") -> int:
    """Returns about how many bytes a checkpoint of a run will take, before its optimizer has a state.

    It counts the weights and buffers; for each trained parameter as many numbers as optimizers with these settings keep
    (two with ``betas``, one with a momentum); and the averaged models of hooks.
    """
    model: Any = unwrap(runner.model)
    total = bytes_of(model.state_dict())
    for wrapper in runner.optim_wrapper.optim_wrappers.values():
        state = bytes_of(wrapper.optimizer.state_dict()["state"])
        if not state:
            for group in wrapper.optimizer.param_groups:
                states = sum(number for name, number in _STATES_OF_ONE_PARAMETER if group.get(name))
                state += states * sum(param.numel() * param.itemsize for param in group["params"])
        total += state
    return total + sum(bytes_of(averaged.state_dict()) for averaged in averaged_models(runner))


def averaged_models(runner: "Runner") -> list[torch.nn.Module]:
    """Return the averaged models that hooks keep as ``ema_model``."""
    averaged = (getattr(hook, "ema_model", None) for hook in runner.hooks)
    return [model for model in averaged if isinstance(model, torch.nn.Module)]


def check_space(folder: Path, needed: int) -> None:
    """Raises the error of a full disk before anything is written, if ``needed`` bytes will not fit.

    Raises:
        OSError: with ``ENOSPC``; it names what is needed and what is free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC, f"a checkpoint takes about {human_bytes(needed)}, {human_bytes(free)} are free", str(folder)
        )


def human_bytes(number: int) -> str:
    """Returns a number of bytes for people: ``1.2 GB``."""
    for factor, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number} bytes"


def remove_leftovers(folder: Path) -> list[str]:
    """Removes the temporary files that a killed process left in a folder of checkpoints, and returns their names.

    Call it before this process saves anything there: one with its own number was left by another one before, as in
    containers, where a program has the same number each time.
    """
    removed = []
    for path in folder.glob(".*.tmp"):
        found = re.fullmatch(r"\..+\.(\d+)\.tmp", path.name)
        if found and (int(found.group(1)) == os.getpid() or not _is_alive(int(found.group(1)))):
            with suppress(OSError):  # it is in nobody's way
                path.unlink(missing_ok=True)
                removed.append(path.name)
    return removed


class Writer:
    """Does one job after the other, in place or on a thread.

    Args:
        background: do jobs on a thread; :meth:`submit` then waits for the job before, and errors come out of
            :meth:`wait`. The thread does not keep the process alive.
    """

    def __init__(self, background: bool = False) -> None:
        self.background = background
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def submit(self, job: Callable[[], None]) -> None:
        """Does a job, or begins to. Call :meth:`wait` before and after."""

        def run() -> None:
            try:
                job()
            except BaseException as error:  # it is raised again where somebody waits
                self._error = error

        if self.background:
            self._thread = threading.Thread(target=run, name="checkpoint", daemon=True)
            self._thread.start()
        else:
            run()

    def wait(self) -> None:
        """Waits for the job in progress.

        Raises:
            BaseException: whatever ended the job.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True
