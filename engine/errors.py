"""The exceptions of Trainwright.

TrainwrightError
├── ConfigError (ValueError)            a mistake in a config, with its location and a remedy
│   ├── ConfigFileError                 a config file that cannot be read
│   ├── HookPointError (TypeError)      a hook method that is never or cannot be called
│   └── UnknownTypeError (KeyError)     a `type` that is not registered
├── ConfigErrors (ValueError)           all mistakes found by `check`
├── CheckpointError (RuntimeError)      a checkpoint that is missing, corrupt, unsafe or incompatible
├── DataError (ValueError)              data that is wrong: annotations, labels, classes that do not match
│   ├── DamagedFileError (OSError)      a file that cannot be decoded
│   └── MissingFileError (FileNotFoundError)  a file or folder that does not exist
├── MissingExtraError (ImportError)     an optional package that is not installed
└── TrainingError (RuntimeError)        a run that cannot continue
"""

import difflib
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

_MANY = 5000  # names in a folder that are compared with a missing one


class Origin(NamedTuple):
    """Where a config key was set.

    Args:
        file: path of the config file, or another source such as ``--cfg-options``.
        line: 1-based line number; 0 if there is none.
    """

    file: str
    line: int = 0

    def __str__(self) -> str:
        file = self.file
        path = Path(file)
        if path.is_absolute() and path.is_relative_to(Path.cwd()):
            file = str(path.relative_to(Path.cwd()))
        return f"{file}:{self.line}" if self.line else file


class TrainwrightError(Exception):
    """Base class of all exceptions of Trainwright."""


class ConfigError(TrainwrightError, ValueError):
    """A mistake in a config.

    Args:
        path: dotted path of the key, such as ``model.backbone.type``; empty for the whole file.
        message: description of the mistake.
        hint: how to fix it.
        origin: where the key was set, if known.
    """

    def __init__(self, path: str, message: str, hint: str = "", origin: Origin | None = None) -> None:
        super().__init__(path, message, hint, origin)
        self.path = path
        self.message = message
        self.hint = hint
        self.origin = origin

    def __str__(self) -> str:
        place = ": ".join(str(part) for part in (self.origin, self.path) if part)
        text = f"{place}: {self.message}" if place else self.message
        return text + "".join(f"\n    {line}" for line in self.hint.splitlines())


class ConfigFileError(ConfigError):
    """A config file that is missing, of an unknown format, or syntactically wrong."""


class UnknownTypeError(ConfigError, KeyError):
    """A ``type`` that is neither registered nor importable. (MMEngine raises ``KeyError`` here.)"""


class HookPointError(ConfigError, TypeError):
    """A hook method that is never called, because its name is not a hook point, or that cannot be called as it is."""


class ConfigErrors(TrainwrightError, ValueError):
    """All mistakes in a config.

    Args:
        errors: the mistakes, at least one.
    """

    def __init__(self, errors: Sequence[ConfigError]) -> None:
        super().__init__(errors)
        self.errors = list(errors)

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)


class CheckpointError(TrainwrightError, RuntimeError):
    """A checkpoint that is missing, corrupt, unsafe to load, or incompatible."""


class MissingCheckpointError(CheckpointError, FileNotFoundError):
    """A checkpoint that is missing."""


class MissingExtraError(TrainwrightError, ImportError):
    """An optional package is not installed.

    Args:
        package: name of the missing package.
        extra: name of the extra that installs it.
        purpose: the feature that needs it.
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package {package!r}: pip install 'trainwright[{extra}]'")


class DataError(TrainwrightError, ValueError):
    """Data that is wrong; the message names the file, the sample or field, and the remedy."""


class DamagedFileError(DataError, OSError):
    """A file that exists but cannot be decoded, whatever the decoder raised.

    Args:
        path: path of the file. If this is the only argument, it is the whole message: PyTorch raises errors of data
            workers again with their text.
        reason: what the decoder reported.
    """

    def __init__(self, path: str | os.PathLike[str], reason: object = None) -> None:
        super().__init__(*(os.fspath(path),) if reason is None else (os.fspath(path), str(reason)))
        self.path, self.reason = os.fspath(path), reason

    def __str__(self) -> str:
        if self.reason is None:
            return self.path
        return f"{self.path} is damaged or not in a supported format: {self.reason}"


class MissingFileError(DataError, FileNotFoundError):
    """A file or folder of the data that does not exist."""

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> "MissingFileError":
        """Return the error for a path, which names the first part of it that does not exist, and similar names."""
        whole = Path(path)
        parts = [*reversed(whole.parents), whole]
        number = next((number for number, part in enumerate(parts) if not part.exists()), len(parts) - 1)
        missing, folder = parts[number], parts[number - 1] if number else Path()
        with suppress(OSError):
            names = [entry.name for entry in islice(os.scandir(folder), _MANY)]
            if missing.suffix:  # the file with another number is another file
                names = [name for name in names if _without_digits(name) != _without_digits(missing.name)]
            hint = did_you_mean(missing.name, names)
            reason = f": there is no {str(missing)!r}" if missing != whole else ""
            where = "" if whole.is_absolute() else f" in {Path.cwd()}"
            return cls(f"{path} does not exist{reason}{where}{hint and f'; {hint}'}")
        return cls(f"{path} does not exist")


def _without_digits(name: str) -> str:
    return "".join(letter for letter in name if not letter.isdigit())


class TrainingError(TrainwrightError, RuntimeError):
    """A run that cannot continue."""


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """Return ``"did you mean 'x'?"`` for the closest candidates, or an empty string."""
    lowered: dict[str, str] = {}
    for candidate in candidates:
        lowered.setdefault(candidate.lower(), candidate)
    close = [lowered[match] for match in difflib.get_close_matches(word.lower(), lowered, n=3, cutoff=0.6)]
    return f"did you mean {' or '.join(map(repr, close))}?" if close else ""


def with_article(noun: str) -> str:
    """Return ``"a model"``, ``"an optimizer"``."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


for _member in list(vars().values()):  # tracebacks have the public path
    if isinstance(_member, type) and issubclass(_member, TrainwrightError):
        _member.__module__ = "trainwright.engine"


USER_ERRORS = (ConfigError, ConfigErrors, CheckpointError, DataError)
"""Errors whose message is enough for a user, so that the command line prints it without a traceback."""
