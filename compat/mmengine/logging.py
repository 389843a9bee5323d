"""Names of ``mmengine.logging``."""

import getpass
import inspect
import logging
import logging.handlers
import os
import socket
import sys
from typing import TYPE_CHECKING, Any

import torch

from trainwright.compat.mmengine.managers import ManagerMixin, _accquire_lock, _release_lock
from trainwright.engine import HistoryBuffer, MessageHub, MMLogger, print_log
from trainwright.engine import get_rank as _get_rank
from trainwright.engine import get_world_size as _get_world_size
from trainwright.engine.records.logger import DuplicateWarningFilter

_COLORS = {"ERROR": 31, "WARNING": 33, "INFO": 37, "DEBUG": 32}  # of ANSI terminals


class FilterDuplicateWarning(DuplicateWarningFilter):
    """A filter that passes each warning once.

    Args:
        name: name of the filter.
    """

    def __init__(self, name: str = "mmengine") -> None:
        super().__init__()
        self.name = name


class MMFormatter(logging.Formatter):
    """A formatter with the time, the name of the logger, the level, and for errors the source location.

    Args:
        color: color the level, for terminals.
        blink: let it blink, too; warnings and errors do so anyway.
        **kwargs: arguments of :class:`logging.Formatter`.
    """

    def __init__(self, color: bool = True, blink: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        assert color or not blink, "blink requires color"
        self._formats = {}
        for level, code in _COLORS.items():
            attributes = f"4;5;{code}" if blink or level in ("ERROR", "WARNING") else f"4;{code}"
            shown = f"\033[{attributes}m{level}\033[0m" if color else level
            place = "%(pathname)s - %(funcName)s - %(lineno)d - " if level == "ERROR" else ""
            self._formats[level] = f"%(asctime)s - %(name)s - {shown} - {place}%(message)s"

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        self._style._fmt = self._formats.get(record.levelname, self._style._fmt)
        return super().format(record)


def _get_device_id() -> int:
    """Return the number of the GPU of this process among all of the machine."""
    rank = int(os.getenv("LOCAL_RANK", "0"))
    visible = os.getenv("CUDA_VISIBLE_DEVICES", "").split(",")
    is_listed = torch.cuda.is_available() and rank < len(visible) and visible[rank].isdigit()
    return int(visible[rank]) if is_listed else rank


def _get_host_info() -> str:
    """Return the user and the name of the machine."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def _get_logging_file_handlers() -> dict[str, type]:
    """Return the classes of :mod:`logging.handlers` that write files."""
    classes = inspect.getmembers(logging.handlers, inspect.isclass)
    return {name: cls for name, cls in classes if issubclass(cls, logging.FileHandler)}
