"""What the released libraries need on today's Python packages, for them only."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from trainwright.compat import legacy

_MMCV = {"mmcv": "2.0.1"}
# Each library refuses to be imported beside versions released after it. These are the ones that it gets to see.
LIBRARIES: dict[str, dict[str, str]] = {
    "mmcls": _MMCV,
    "mmpretrain": _MMCV,
    "mmdet": _MMCV,
    "mmseg": _MMCV,
    "mmpose": _MMCV,
    "mmaction": _MMCV,
    "mmocr": {**_MMCV, "mmdet": "3.1.0"},
    "mmagic": _MMCV,
    "mmyolo": {**_MMCV, "mmdet": "3.1.0"},
    "mmdet3d": {**_MMCV, "mmdet": "3.1.0"},
    "mmrazor": _MMCV,
}


class LibraryFinder(MetaPathFinder):
    """Finds modules as Python does.

    The libraries see acceptable versions while they are imported; packages that have removed what the libraries use
    get it back, for them only.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a library or of a package with removed names."""
        if fullname not in LIBRARIES and fullname not in legacy.PATCHES:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader)
                return spec
        return None


class _Loader(Loader):
    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)  # type: ignore[no-any-return]

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        if name == "mmpose":
            legacy.replace_broken_xtcocotools()
        with _versions(LIBRARIES.get(name, {})):
            self._loader.exec_module(module)
        if name in legacy.PATCHES:
            legacy.PATCHES[name](module)


@contextmanager
def _versions(versions: dict[str, str]) -> Iterator[None]:
    """Show other versions of some packages within a ``with`` block."""
    packages = {import_module(name): version for name, version in versions.items()}
    real = {package: package.__version__ for package in packages}
    try:
        for package, version in packages.items():
            package.__version__ = version  # type: ignore[attr-defined]
        yield
    finally:
        for package, version in real.items():
            package.__version__ = version  # type: ignore[attr-defined]


def install() -> None:
    """Add the finders and the removed names."""
    legacy.install()
    if not any(isinstance(finder, LibraryFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, LibraryFinder())
