"""The logger of a run: plain lines in a file, colored lines in a terminal."""

import getpass
import logging
import logging.handlers
import socket
import sys
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import torch
import torch.distributed as dist
from rich.console import Console
from rich.text import Text

from trainwright.engine.errors import did_you_mean
from trainwright.engine.records.current import CurrentMixin

_LEVEL_STYLES = {"DEBUG": "green", "WARNING": "yellow", "ERROR": "bold red", "CRITICAL": "bold red"}


class LogFormatter(logging.Formatter):
    """A formatter for ``2024/05/01 12:00:00 - trainwright - INFO - message``, with the source location for errors."""

    def __init__(self, datefmt: str) -> None:
        prefix = "%(asctime)s - %(name)s - %(levelname)s"
        location = "%(pathname)s - %(funcName)s - %(lineno)d"
        super().__init__(f"{prefix} - %(message)s", datefmt)
        self._for_errors = logging.Formatter(f"{prefix} - {location} - %(message)s", datefmt)
        self._second, self._time = -1, ""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """Return the time of a record in seconds, formatting each second only once."""
        second = int(record.created)
        if second != self._second:
            self._second, self._time = second, super().formatTime(record, datefmt)
        return self._time

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        if record.levelno < logging.ERROR and not record.exc_info and not record.stack_info:
            time = self.formatTime(record, self.datefmt)
            return f"{time} - {record.name} - {record.levelname} - {record.getMessage()}"
        return self._for_errors.format(record) if record.levelno >= logging.ERROR else super().format(record)


OF_RANK = {"of_rank": True}
"""Pass this as ``extra`` with a warning that concerns one rank only, so that it is shown if that is not rank 0."""


class ConsoleHandler(logging.Handler):
    """A handler for a rich console: colored and above any progress bar in a terminal, plain when piped.

    Args:
        console: the console.
        rank: rank of this process. Others than 0 show errors, and what concerns only them (see :data:`OF_RANK`).
    """

    def __init__(self, console: Console, rank: int = 0) -> None:
        super().__init__()
        self.console = console
        self._rank = rank
        self._in_terminal = console.is_terminal  # cached, since it reads environment variables
        self.setFormatter(LogFormatter("%m/%d %H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        if self._rank and record.levelno < logging.ERROR and not getattr(record, "of_rank", False):
            return
        try:
            line = f"rank {self._rank}: {self.format(record)}" if self._rank else self.format(record)
            if self._in_terminal:
                text = Text(line)
                text.highlight_words([f"- {record.levelname} -"], _LEVEL_STYLES.get(record.levelname, ""))
                self.console.print(text, soft_wrap=True, highlight=False)
            else:
                file = self.console.file
                encoding = getattr(file, "encoding", None) or "utf-8"
                file.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
                file.flush()
        except Exception:
            self.handleError(record)


class DuplicateWarningFilter(logging.Filter):
    """A filter that passes each warning once."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log the record."""
        if record.levelno != logging.WARNING:
            return True
        message = record.getMessage()
        if message in self._seen:
            return False
        self._seen.add(message)
        return True


class MMLogger(logging.Logger, CurrentMixin):
    """A logger with its own handlers, unaffected by the logging settings of other packages.

    Ranks other than 0 write only errors to the console. Rank 0 writes the file; with ``distributed``, or at level
    DEBUG, each rank writes its own file, named by host, device and rank.

    Args:
        name: name of the instance.
        logger_name: name in the lines.
        log_file: file to write to in addition to the console. Its folder is created.
        log_level: level of both, as a name or number.
        file_mode: ``"w"`` or ``"a"``.
        distributed: whether each rank writes a file.
        file_handler_cfg: ``type``, the name of a class in ``logging`` or ``logging.handlers`` such as
            ``TimedRotatingFileHandler``, and its arguments.
        stream: stream of the console; ``sys.stdout`` if None.

    Raises:
        ValueError: an unknown level or type of file handler.
    """

    def __init__(
        self,
        name: str,
        logger_name: str = "trainwright",
        log_file: str | Path | None = None,
        log_level: int | str = "INFO",
        file_mode: str = "w",
        distributed: bool = False,
        file_handler_cfg: Mapping[str, Any] | None = None,
        stream: TextIO | None = None,
    ) -> None:
        logging.Logger.__init__(self, logger_name, _level_number(log_level))
        CurrentMixin.__init__(self, name)
        rank, world_size = _rank_and_world_size()
        self.addFilter(DuplicateWarningFilter())
        self.console = Console(file=stream)
        console_handler = ConsoleHandler(self.console, rank)
        self.addHandler(console_handler)

        every_rank = world_size > 1 and (distributed or self.level <= logging.DEBUG)
        self.log_file: str | None = None
        if log_file is not None and (rank == 0 or every_rank):
            path = _path_of_rank(Path(log_file), rank) if every_rank else Path(log_file)
            path.parent.mkdir(parents=True, exist_ok=True)
            self.log_file = str(path)
            handler = _file_handler(self.log_file, file_mode, file_handler_cfg)
            handler.setFormatter(LogFormatter("%Y/%m/%d %H:%M:%S"))
            handler.handleError = _report_first_failure(self.log_file)  # type: ignore[method-assign,assignment]
            self.addHandler(handler)
            # A failed run is freed by the garbage collector, which would close its file at any time, with a warning.
            weakref.finalize(self, handler.close).atexit = False

    def _log(  # type: ignore[override]
        self, level: int, msg: object, args: Any, exc_info: Any = None, **options: Any
    ) -> None:
        """Log a record; to save time, the source location is looked up only for errors."""
        if level >= logging.ERROR or exc_info or options:
            options["stacklevel"] = options.get("stacklevel", 1) + 1
            super()._log(level, msg, args, exc_info, **options)
        else:
            self.handle(self.makeRecord(self.name, level, "", 0, msg, args, None))

    def setLevel(self, level: int | str) -> None:
        """Set the level of console and file."""
        self.level = _level_number(level)
        getattr(self, "_cache", {}).clear()  # logging's manager does not know this logger, so it cannot do this

    def close(self) -> None:
        """Close the file. Further logging reopens it and appends."""
        for handler in self.handlers:
            if isinstance(handler, logging.FileHandler):
                handler.close()
                handler.mode = "a"

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return get_logger, ()  # another process uses its own logger

    @classmethod
    def _fallback(cls) -> "MMLogger":
        return cls("trainwright", stream=sys.stderr)


def get_logger(name: str | None = None) -> MMLogger:
    """Return the logger with a name, or that of the active run, or outside a run one that writes to the console."""
    return MMLogger.get_current_instance() if name is None else MMLogger.get_instance(name)


def print_log(msg: Any, logger: logging.Logger | str | None = None, level: int = logging.INFO) -> None:
    """Print or log a message.

    Args:
        msg: the message.
        logger: a logger; ``"current"`` for that of the active run; the name of a logger instance; ``"silent"`` to
            discard the message; or None to print it.
        level: log level of the message.

    Raises:
        ValueError: no logger has this name.
        TypeError: ``logger`` has another type.
    """
    if logger is None:
        print(msg)
    elif isinstance(logger, logging.Logger):
        logger.log(level, msg)
    elif not isinstance(logger, str):
        raise TypeError(f"logger must be a logger, a name, 'current', 'silent' or None, got {logger!r}")
    elif logger == "current":
        get_logger().log(level, msg)
    elif logger != "silent":
        if not MMLogger.check_instance_created(logger):
            hint = f"create it with MMLogger.get_instance({logger!r}), or use 'current'"
            raise ValueError(f"unknown logger {logger!r}: {hint}")
        get_logger(logger).log(level, msg)


def _report_first_failure(path: str) -> Callable[[logging.LogRecord], None]:
    """Return an error handler that reports an unwritable log file, as on a full disk, once and without traceback."""
    reported = False

    def handle_error(record: logging.LogRecord) -> None:
        nonlocal reported
        if not reported:
            reported = True
            print(f"Cannot write the log file {path}: {sys.exc_info()[1]}", file=sys.stderr)

    return handle_error


def _level_number(level: int | str) -> int:
    if isinstance(level, int):
        return level
    names = logging.getLevelNamesMapping()
    if level.upper() not in names:
        raise ValueError(f"unknown log level {level!r}: {did_you_mean(level, names) or ', '.join(names)}")
    return names[level.upper()]


def _rank_and_world_size() -> tuple[int, int]:
    """Like ``get_dist_info`` in the distributed module, which would be a circular import here."""
    is_distributed = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if is_distributed else (0, 1)


def _path_of_rank(path: Path, rank: int) -> Path:
    device = torch.accelerator.current_device_index() if torch.accelerator.is_available() else 0
    host = f"{getpass.getuser()}@{socket.gethostname()}"
    return path.with_stem(f"{path.stem}_{host}_device{device}_rank{rank}")


def _file_handler(path: str, mode: str, cfg: Mapping[str, Any] | None) -> logging.Handler:
    arguments = {"type": "FileHandler", "filename": path, **(cfg or {})}
    type_ = arguments.pop("type")
    members = {**vars(logging), **vars(logging.handlers)}.items()
    known = {name: cls for name, cls in members if isinstance(cls, type) and issubclass(cls, logging.FileHandler)}
    if type_ not in known:
        raise ValueError(f"unknown file handler {type_!r}: {did_you_mean(type_, known) or ', '.join(known)}")
    if type_ == "FileHandler":
        arguments.setdefault("mode", mode)
    arguments.setdefault("encoding", "utf-8")  # independent of the locale
    return known[type_](**arguments)
