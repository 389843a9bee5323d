"""``mmengine.hub``: configs and models of installed libraries."""

from importlib import import_module
from typing import Any

from trainwright.compat.mmengine.registry import DefaultScope
from trainwright.compat.mmengine.utils import get_installed_path, install_package
from trainwright.engine import MODELS, Config, load_checkpoint
from trainwright.engine.inference.model_index import listed_models


def get_config(cfg_path: str, pretrained: bool = False) -> Config:
    """Return a config of an installed library.

    Args:
        cfg_path: the library and the file, such as ``mmdet::retinanet/retinanet_r50_fpn_1x_coco.py``.
        pretrained: set ``model_path`` to the URL of the weights that were trained with it.

    Raises:
        ConfigFileError: the library is not installed, or does not have this config.
        ValueError: the library does not list weights for it.
    """
    cfg = Config.fromfile(cfg_path)
    if pretrained:
        package, _, name = cfg_path.partition("::")
        models = [model for model in listed_models(package) if model.get("Config", "").partition("/")[2] == name]
        if not models or "Weights" not in models[0]:
            raise ValueError(f"{package} does not list weights for {name}: use pretrained=False")
        cfg.model_path = models[0]["Weights"]
    return cfg


def get_model(cfg_path: str, pretrained: bool = False, **kwargs: Any) -> Any:
    """Return the model of a config of an installed library.

    Args:
        cfg_path: as in :func:`get_config`.
        pretrained: load the weights that were trained with it.
        **kwargs: arguments of the model that the config lacks.
    """
    package = cfg_path.partition("::")[0]
    cfg = get_config(cfg_path, pretrained)
    if "data_preprocessor" in cfg:
        cfg.model.data_preprocessor = cfg.data_preprocessor
    import_module(f"{package}.utils").register_all_modules(init_default_scope=False)
    with DefaultScope.overwrite_default_scope(package):
        model = MODELS.build(cfg.model, **kwargs)
    if pretrained:
        load_checkpoint(model, cfg.model_path)
        model._is_init = True
    return model
