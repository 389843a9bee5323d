"""Look into files without loading all of them."""

from pathlib import Path


def looks_like(file: Path, text: bytes) -> bool:
    """Return whether a file contains a text in its first or last 64 kB, without parsing large files."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(65536)
        stream.seek(max(0, size - 65536))
        return text in head or text in stream.read() or size > 10_000_000
