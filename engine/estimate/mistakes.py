"""Errors of a model or its data in an estimate, as one message."""

import copy
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from trainwright.engine.errors import USER_ERRORS, ConfigError, DataError

_NOT_THEIRS = (str(Path(torch.__file__).parent), str(Path(__file__).parent), copy.__file__)


class StepError(ConfigError):
    """A training step that fails in an estimate."""


@contextmanager
def as_config_error(path: str, what: str, hint: str, error_type: type[ConfigError] = ConfigError) -> Iterator[None]:
    """Raise a ``ConfigError`` for other errors in this context, with their place in the code.

    Args:
        path: the key of the config that the code belongs to.
        what: what fails.
        hint: a remedy.
        error_type: the class to raise. Errors with a message for users keep theirs if it is ``ConfigError``.
    """
    try:
        yield
    except Exception as error:
        is_explained = isinstance(error, USER_ERRORS)
        if is_explained and error_type is ConfigError:
            if isinstance(error, DataError):
                error.add_note(hint)
            raise
        cause = str(error) if is_explained else f"{type(error).__name__}: {error}{_place(error)}"
        raised = error_type(path, f"{what}: {cause}")
        for note in (*getattr(error, "__notes__", ()), hint):
            raised.add_note(note)
        raise raised from error


def _place(error: Exception) -> str:
    """Return the innermost line of an error that is not PyTorch's or of the estimate, in parentheses."""
    frames = reversed(traceback.extract_tb(error.__traceback__))
    return next((f" ({f.filename}:{f.lineno})" for f in frames if not f.filename.startswith(_NOT_THEIRS)), "")
