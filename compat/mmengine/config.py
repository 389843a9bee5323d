"""``mmengine.config``."""

from collections.abc import Sequence
from typing import Any

from trainwright.engine import Config, ConfigDict, DictAction, read_base
from trainwright.engine.config import lazy_object

BASE_KEY = "_base_"
DELETE_KEY = "_delete_"
DEPRECATION_KEY = "_deprecation_"
RESERVED_KEYS = ["filename", "text", "pretty_text", "env_variables"]
_SCOPES = """
mmcls mmdet mmdet3d mmtrack mmpose mmedit mmocr mmgen mmfewshot mmrazor mmflow mmhuman3d mmrotate mmselfsup mmyolo
mmpretrain mmagic
"""
MODULE2PACKAGE = {  # the package of each scope
    **{scope: scope for scope in _SCOPES.split()},
    "mmseg": "mmsegmentation",
    "mmaction": "mmaction2",
}


class _IsLazy(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, lazy_object.LazyObject)


class LazyObject(metaclass=_IsLazy):
    """The engine's placeholder for an imported object, with MMEngine's arguments.

    Args:
        module: the module, or several.
        imported: the name in it; None for the module itself.
        location: unused.
    """

    def __new__(cls, module: str | Sequence[str], imported: str | None = None, location: str | None = None) -> Any:
        """Return the engine's object."""
        name = module if isinstance(module, str) else module[0]
        return lazy_object.LazyObject(f"{name}.{imported}" if imported else name)


class LazyAttr(metaclass=_IsLazy):
    """An attribute of a placeholder: the engine's placeholder for that attribute.

    Args:
        name: name of the attribute.
        source: the placeholder.
        location: unused.
    """

    def __new__(cls, name: str, source: Any, location: str | None = None) -> Any:
        """Return the engine's object."""
        return getattr(source, name)
