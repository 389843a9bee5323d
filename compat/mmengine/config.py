"""``mmengine.config``."""

from trainwright.engine import Config, ConfigDict, DictAction, read_base

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
