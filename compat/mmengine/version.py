"""Names of ``mmengine.version``."""

import re

from trainwright.compat.finder import VERSION


def parse_version_info(version_str: str) -> tuple[int | str, ...]:
    """Return the parts of a version such as ``1.2.0rc1``: numbers, and ``"rc1"`` for a release candidate."""
    numbers, candidate = re.fullmatch(r"([^r]*)(rc\d+)?.*", version_str).groups()  # type: ignore[union-attr]
    return (*(int(part) for part in numbers.split(".") if part.isdigit()), *([candidate] if candidate else []))


__version__ = VERSION
version_info = parse_version_info(VERSION)
