"""``distutils``, which Python 3.12 has removed: versions and truth values."""

import functools
import re


@functools.total_ordering
class LooseVersion:
    """A version, compared by its numbers and words.

    Args:
        vstring: such as ``1.5.2b2``.
    """

    def __init__(self, vstring: str | None = None) -> None:
        self.vstring = ""
        self.version: list[int | str] = []
        if vstring:
            self.parse(vstring)

    def parse(self, vstring: str) -> None:
        """Split a version."""
        self.vstring = vstring
        self.version = [int(part) if part.isdigit() else part for part in re.findall(r"\d+|[a-z]+|[^\da-z.]+", vstring)]

    def __str__(self) -> str:
        return self.vstring

    def __repr__(self) -> str:
        return f"LooseVersion ('{self.vstring}')"

    def __eq__(self, other: object) -> bool:
        return self.version == _parts(other)

    def __lt__(self, other: object) -> bool:
        return self.version < _parts(other)

    __hash__ = None  # type: ignore[assignment]


StrictVersion = LooseVersion


def _parts(version: object) -> list[int | str]:
    return (version if isinstance(version, LooseVersion) else LooseVersion(str(version))).version


def strtobool(val: str) -> int:
    """Return 1 for ``yes``, ``true``, ``on`` and the like, and 0 for their opposites.

    Raises:
        ValueError: any other text.
    """
    if val.lower() in ("y", "yes", "t", "true", "on", "1"):
        return 1
    if val.lower() in ("n", "no", "f", "false", "off", "0"):
        return 0
    raise ValueError(f"{val!r} is neither true nor false")
