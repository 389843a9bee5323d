"""``pkg_resources`` on :mod:`importlib.metadata`: versions, requirements, entry points and files of packages."""

from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.version import parse


class ResolutionError(Exception):
    """A requirement is not met."""


class DistributionNotFound(ResolutionError):
    """A package is not installed."""


class VersionConflict(ResolutionError):
    """A package is installed in another version."""


class Distribution:
    """An installed package.

    Args:
        found: its metadata.
    """

    def __init__(self, found: metadata.Distribution) -> None:
        self.project_name = found.metadata["Name"]
        self.key = self.project_name.lower()
        self.version = found.version
        self.parsed_version = parse(found.version)
        self.location = str(found.locate_file(""))

    def __str__(self) -> str:
        return f"{self.project_name} {self.version}"


parse_version = parse


def get_distribution(dist: str) -> Distribution:
    """Return the package of a name or requirement.

    Raises:
        DistributionNotFound: it is not installed.
        VersionConflict: its version is another one.
    """
    requirement = Requirement(dist)
    try:
        found = Distribution(metadata.distribution(requirement.name))
    except metadata.PackageNotFoundError as error:
        raise DistributionNotFound(f"the package {requirement.name!r} is not installed") from error
    if not requirement.specifier.contains(found.version, prereleases=True):
        raise VersionConflict(f"{found} is installed, but {dist} is required")
    return found


def require(*requirements: str) -> list[Distribution]:
    """Return the packages of several requirements, or raise as :func:`get_distribution`."""
    return [get_distribution(requirement) for requirement in requirements]


def iter_entry_points(group: str, name: str | None = None) -> Iterator[Any]:
    """Yield the entry points of a group."""
    yield from (point for point in metadata.entry_points(group=group) if name in (None, point.name))


def resource_filename(package_or_requirement: str, resource_name: str) -> str:
    """Return the path of a file in a package."""
    spec = util.find_spec(package_or_requirement)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"there is no package {package_or_requirement!r}", name=package_or_requirement)
    return str(Path(spec.origin).parent / resource_name)
