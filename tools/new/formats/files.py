"""Look into files without loading all of them."""

import json
from pathlib import Path
from typing import Any

from trainwright.engine.errors import DataError


def looks_like(file: Path, text: bytes) -> bool:
    """Return whether a file contains a text in its first or last 64 kB, without parsing large files."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(65536)
        stream.seek(max(0, size - 65536))
        return text in head or text in stream.read() or size > 10_000_000


def load_json(file: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        DataError: the file is not valid JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{file} is not valid JSON: {error}") from error
