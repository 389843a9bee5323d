"""The logger of a run: plain lines in a file, coloured ones in a terminal."""

import getpass
import logging
import logging.handlers
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import torch
import torch.distributed as dist
from rich.console import Console
from rich.text import Text

from trainwright.engine.errors import did_you_mean
from trainwright.engine.records.current import CurrentMixin

_LEVEL_STYLES = {
    "DEBUG": "green",
    "INFO": "",
    "WARNING": "yellow",
    "ERROR": "bold red",
    "CRITICAL": "bold red",
}


class LogFormatter(logging.Formatter):
    """Formats a record as ``2024/05/01 12:00:00 - trainwright - INFO - message``; errors with their place.

    Args:
        datefmt: format of the time, as for ``time.strftime``.
    """

    def __init__(self, datefmt: str) -> None:
        super().__init__("%(asctime)s - %(name)s - %(levelname)s - %(message)s", datefmt)
        self._second, self._time = -1, ""
        place = "%(pathname)s - %(funcName)s - %(lineno)d"
        self._with_place = logging.Formatter(f"%(asctime)s - %(name)s - %(levelname)s - {place} - %(message)s", datefmt)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """Returns the time of a record to the second; each second is formatted once."""
        second = int(record.created)
        if second != self._second:
            self._second, self._time = second, super().formatTime(record, datefmt)
        return self._time

    def format(self, record: logging.LogRecord) -> str:
        """Returns the text of a record."""
        if record.levelno < logging.ERROR and not record.exc_info and not record.stack_info:
            time = self.formatTime(record, self.datefmt)
            return f"{time} - {record.name} - {record.levelname} - {record.getMessage()}"
        return self._with_place.format(record) if record.levelno >= logging.ERROR else super().format(record)


class ConsoleHandler(logging.Handler):
    """Writes to a rich console: coloured in a terminal, above a progress bar there; plain when piped.

    Args:
        console: where to write.
    """

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console
        self._in_terminal = console.is_terminal  # asked once: it looks into the environment
        self.setFormatter(LogFormatter("%m/%d %H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record."""
        try:
            line = self.format(record)
            if self._in_terminal:
                text = Text(line)
                text.highlight_words([f"- {record.levelname} -"], _LEVEL_STYLES.get(record.levelname, ""))
                self.console.print(text, soft_wrap=True, highlight=False)
            else:
                file = self.console.file
                encoding = getattr(file, "encoding", None) or "utf-8"
                file.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
                self.console.file.flush()
        except Exception:
            self.handleError(record)


class DuplicateWarningFilter(logging.Filter):
    """Lets each warning pass once."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Returns whether to log the record."""
        if record.levelno != logging.WARNING:
            return True
        message = record.getMessage()
        if message in self._seen:
            return False
        self._seen.add(message)
        return True


class MMLogger(logging.Logger, CurrentMixin):
    """Logger with handlers of its own, so that the logging settings of other packages do not touch it.

    Processes other than the first write only errors to the console. The first one writes the file; with
    ``distributed``, or at level DEBUG, each process writes one, named by host, device and rank.

    Args:
        name: name of the instance.
        logger_name: name in the lines.
        log_file: file to write to, besides the console. Its folder is created.
        log_level: level of both, as a name or number.
        file_mode: ``"w"`` or ``"a"``.
        distributed: whether each process writes a file.
        file_handler_cfg: ``type``, the name of a class of ``logging`` or ``logging.handlers`` such as
            ``TimedRotatingFileHandler``, and its arguments.
        stream: where the console lines go; ``sys.stdout`` if None.

    Raises:
        ValueError: the level or the type of file handler does not exist.
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
        console_handler = ConsoleHandler(self.console)
        console_handler.setLevel(logging.NOTSET if rank == 0 else logging.ERROR)
        self.addHandler(console_handler)

        every_rank = world_size > 1 and (distributed or self.level <= logging.DEBUG)
        self.log_file: str | None = None
        if log_file is not None and (rank == 0 or every_rank):
            path = _path_of_rank(Path(log_file), rank) if every_rank else Path(log_file)
            path.parent.mkdir(parents=True, exist_ok=True)
            self.log_file = str(path)
            handler = _file_handler(self.log_file, file_mode, file_handler_cfg)
            handler.setFormatter(LogFormatter("%Y/%m/%d %H:%M:%S"))
            handler.handleError = _report_first_failure(self.log_file)  # type: ignore[method-assign,assignment]  # else a traceback each
            self.addHandler(handler)

    def _log(  # type: ignore[override]  # the options of the base class, not spelled out
        self, level: int, msg: object, args: Any, exc_info: Any = None, **options: Any
    ) -> None:
        """Makes a record and hands it to the handlers; only an error is worth finding out where it was logged."""
        if level >= logging.ERROR or exc_info or options:
            options["stacklevel"] = options.get("stacklevel", 1) + 1
            super()._log(level, msg, args, exc_info, **options)
        else:
            self.handle(self.makeRecord(self.name, level, "", 0, msg, args, None))

    def setLevel(self, level: int | str) -> None:
        """Sets the level of console and file."""
        self.level = _level_number(level)
        getattr(self, "_cache", {}).clear()  # logging's manager, which would do this, does not know this logger

    def close(self) -> None:
        """Closes the file. Logging again opens it again, and appends."""
        for handler in self.handlers:
            if isinstance(handler, logging.FileHandler):
                handler.close()
                handler.mode = "a"

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return get_logger, ()  # a copy in another process is that process's own logger

    @classmethod
    def _fallback(cls) -> "MMLogger":
        return cls("trainwright", stream=sys.stderr)


def get_logger(name: str | None = None) -> MMLogger:
    """Returns the logger of the run in progress, or outside a run one that writes to the console.

    Args:
        name: name of the instance, to get that one instead.
    """
    return MMLogger.get_current_instance() if name is None else MMLogger.get_instance(name)


def print_log(msg: Any, logger: logging.Logger | str | None = None, level: int = logging.INFO) -> None:
    """Prints or logs a message.

    Args:
        msg: the message.
        logger: a logger; ``"current"`` for that of the run in progress; the name of a logger instance;
            ``"silent"`` for nothing at all; or None to print.
        level: level of the message, where it is logged.

    Raises:
        ValueError: no logger has this name.
        TypeError: ``logger`` is none of these.
    """
    if logger is None:
        print(msg)
    elif isinstance(logger, logging.Logger):
        logger.log(level, msg)
    elif not isinstance(logger, str):
        raise TypeError(f"logger must be a logger, a name, 'current', 'silent' or None, not {logger!r}")
    elif logger == "current":
        get_logger().log(level, msg)
    elif logger != "silent":
        if not MMLogger.check_instance_created(logger):
            raise ValueError(
                f"no logger {logger!r}: create it with MMLogger.get_instance({logger!r}), or say 'current'"
            )
        get_logger(logger).log(level, msg)


def _report_first_failure(path: str) -> Callable[[logging.LogRecord], None]:
    """Return an error handler for a log file that cannot be written, as on a full disk."""
    reported = False

    def handle_error(record: logging.LogRecord) -> None:
        nonlocal reported
        if not reported:
            reported = True
            print(f"The log file {path} cannot be written: {sys.exc_info()[1]}", file=sys.stderr)

    return handle_error


def _level_number(level: int | str) -> int:
    if isinstance(level, int):
        return level
    names = logging.getLevelNamesMapping()
    if level.upper() not in names:
        raise ValueError(f"no log level {level!r}: {did_you_mean(level, names) or ', '.join(names)}")
    return names[level.upper()]


def _rank_and_world_size() -> tuple[int, int]:
    """As ``get_dist_info`` of the distributed module, which itself logs and so cannot be imported here."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def _path_of_rank(path: Path, rank: int) -> Path:
    device = torch.accelerator.current_device_index() if torch.accelerator.is_available() else 0
    host = f"{getpass.getuser()}@{socket.gethostname()}"
    return path.with_stem(f"{path.stem}_{host}_device{device}_rank{rank}")


def _file_handler(path: str, mode: str, cfg: Mapping[str, Any] | None) -> logging.Handler:
    arguments = {"type": "FileHandler", "filename": path, **(cfg or {})}
    type_ = arguments.pop("type")
    known = {
        name: member
        for module in (logging, logging.handlers)
        for name, member in vars(module).items()
        if isinstance(member, type) and issubclass(member, logging.FileHandler)
    }
    if type_ not in known:
        raise ValueError(f"no file handler {type_!r}: {did_you_mean(type_, known) or ', '.join(known)}")
    if type_ == "FileHandler":
        arguments.setdefault("mode", mode)
    arguments.setdefault("encoding", "utf-8")  # whatever the locale
    return known[type_](**arguments)
