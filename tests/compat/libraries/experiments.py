"""Configs that the libraries ship, with nothing changed but paths of data, sizes and the length of training."""

from collections.abc import Mapping
from typing import Any, NamedTuple

_CPU = {
    "env_cfg.dist_cfg.backend": "gloo",
    "default_hooks.logger.interval": 1,
}
CLASSES = [f"class_{label}" for label in range(4)]


class Experiment(NamedTuple):
    """A shipped config and its changes.

    Args:
        library: the package.
        config: path of the config in the package's ``.mim/configs``.
        data: the dataset that it needs, a name in ``data.py``.
        options: changed values by dotted path.
        deleted: what is removed from the config, by dotted path.
    """

    library: str
    config: str
    data: str
    options: Mapping[str, Any]
    deleted: tuple[str, ...] = ()


def _loaders(batch_size: int, workers: int = 0, root: str | None = None) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for mode in ("train", "val", "test"):
        changed[f"{mode}_dataloader.batch_size"] = batch_size if mode == "train" else 2
        changed[f"{mode}_dataloader.num_workers"] = workers
        changed[f"{mode}_dataloader.persistent_workers"] = workers > 0
        if root is not None:
            changed[f"{mode}_dataloader.dataset.data_root"] = root
    return changed


_CLASSIFY = {
    **_CPU,
    **_loaders(8, root="imagenet"),
    **{f"{mode}_dataloader.dataset.metainfo": dict(classes=CLASSES) for mode in ("train", "val", "test")},
    "model.head.num_classes": 4,
    "model.head.topk": (1,),
    "val_evaluator.topk": (1,),
    "test_evaluator.topk": (1,),
    "train_dataloader.dataset.pipeline.1.scale": 32,
    **{f"{mode}_dataloader.dataset.pipeline.1.scale": 36 for mode in ("val", "test")},
    **{f"{mode}_dataloader.dataset.pipeline.2.crop_size": 32 for mode in ("val", "test")},
    "train_cfg.max_epochs": 2,
}
_DETECT = {
    **_CPU,
    **_loaders(2, root="coco/"),
    **{f"{mode}_evaluator.ann_file": "coco/annotations/instances_val2017.json" for mode in ("val", "test")},
    "train_dataloader.dataset.pipeline.2.scale": (160, 96),
    **{f"{mode}_dataloader.dataset.pipeline.1.scale": (160, 96) for mode in ("val", "test")},
    "model.backbone.init_cfg": None,
    "train_cfg.max_epochs": 2,
}
_SEGMENT = {
    **_CPU,
    **_loaders(2, root="cityscapes"),
    "train_dataloader.dataset.pipeline.2.scale": (128, 64),
    "train_dataloader.dataset.pipeline.3.crop_size": (64, 64),
    **{f"{mode}_dataloader.dataset.pipeline.1.scale": (128, 64) for mode in ("val", "test")},
    "model.data_preprocessor.size": (64, 64),
    "model.test_cfg.crop_size": (64, 64),
    "model.test_cfg.stride": (42, 42),
    "train_cfg.max_iters": 6,
    "train_cfg.val_interval": 3,
    "default_hooks.checkpoint.interval": 3,
}
_POSE = {
    **_CPU,
    **_loaders(4, root="coco/"),
    **{f"{mode}_evaluator.ann_file": "coco/annotations/person_keypoints_val2017.json" for mode in ("val", "test")},
    **{f"{mode}_dataloader.dataset.bbox_file": None for mode in ("val", "test")},
    "model.backbone.init_cfg": None,
    "model.backbone.depth": 18,
    "model.head.in_channels": 512,
    "train_cfg.max_epochs": 2,
    "train_cfg.val_interval": 1,
    "default_hooks.checkpoint.interval": 1,
}
_RECOGNIZE = {
    **_CPU,
    **_loaders(2),
    "train_dataloader.dataset.ann_file": "frames/train.txt",
    **{f"{mode}_dataloader.dataset.ann_file": "frames/val.txt" for mode in ("val", "test")},
    **{f"{mode}_dataloader.dataset.data_prefix.img": "frames" for mode in ("train", "val", "test")},
    "train_dataloader.dataset.pipeline.2.scale": (-1, 64),
    "train_dataloader.dataset.pipeline.3.input_size": 56,
    "train_dataloader.dataset.pipeline.4.scale": (56, 56),
    **{f"{mode}_dataloader.dataset.pipeline.2.scale": (-1, 64) for mode in ("val", "test")},
    **{f"{mode}_dataloader.dataset.pipeline.3.crop_size": 56 for mode in ("val", "test")},
    "model.backbone.pretrained2d": False,
    "model.backbone.pretrained": None,
    "model.cls_head.num_classes": 4,
    "train_cfg.max_epochs": 2,
}
_WORDS = dict(type="OCRDataset", data_root="text")
_READ = {
    **_CPU,
    **_loaders(4),
    "train_dataloader.dataset.datasets": [{**_WORDS, "ann_file": "textrecog_train.json", "pipeline": None}],
    **{
        f"{mode}_dataloader.dataset.datasets": [
            {**_WORDS, "ann_file": "textrecog_test.json", "test_mode": True, "pipeline": None}
        ]
        for mode in ("val", "test")
    },
    **{f"{mode}_evaluator.dataset_prefixes": ["tiny"] for mode in ("val", "test")},
    **{f"{mode}_dataloader.batch_size": 1 for mode in ("val", "test")},
    "train_cfg.max_epochs": 2,
}
_FIND_TEXT = {
    **_CPU,
    **_loaders(2, root="text"),
    "train_dataloader.dataset.pipeline.5.scale": (128, 128),
    "train_dataloader.dataset.pipeline.6.size": (128, 128),
    **{f"{mode}_dataloader.dataset.pipeline.1.scale": (128, 128) for mode in ("val", "test")},
    "model.backbone.init_cfg": None,
    "train_cfg.max_epochs": 2,
    "train_cfg.val_interval": 1,
    "default_hooks.checkpoint.interval": 1,
}
_RESTORE = {
    **_CPU,
    **_loaders(2),
    "train_dataloader.dataset.ann_file": "train.txt",
    "train_dataloader.dataset.data_root": "pairs/train",
    "train_dataloader.dataset.data_prefix": dict(img="x4", gt="gt"),
    "val_dataloader.dataset.data_root": "pairs/val",
    "val_dataloader.dataset.data_prefix": dict(img="x4", gt="gt"),
    "train_dataloader.dataset.pipeline.3.gt_patch_size": 64,
    "train_cfg.max_iters": 6,
    "train_cfg.val_interval": 3,
    "default_hooks.checkpoint.interval": 3,
    "default_hooks.checkpoint.out_dir": None,
}

EXPERIMENTS = {
    "resnet": Experiment("mmpretrain", "resnet/resnet18_8xb32_in1k.py", "imagenet", _CLASSIFY),
    "retinanet": Experiment("mmdet", "retinanet/retinanet_r18_fpn_1x_coco.py", "coco", _DETECT),
    "faster_rcnn": Experiment("mmdet", "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py", "coco", _DETECT),
    "unet": Experiment("mmseg", "unet/unet-s5-d16_fcn_4xb4-160k_cityscapes-512x1024.py", "cityscapes", _SEGMENT),
    "heatmap": Experiment(
        "mmpose",
        "body_2d_keypoint/topdown_heatmap/coco/td-hm_res50_8xb64-210e_coco-256x192.py",
        "person",
        _POSE,
    ),
    "simcc": Experiment(
        "mmpose", "body_2d_keypoint/simcc/coco/simcc_res50_8xb64-210e_coco-256x192.py", "person", _POSE
    ),
    "tin": Experiment(
        "mmaction", "recognition/tin/tin_imagenet-pretrained-r50_8xb6-1x1x8-40e_sthv1-rgb.py", "frames", _RECOGNIZE
    ),
    "crnn": Experiment("mmocr", "textrecog/crnn/crnn_mini-vgg_5e_mj.py", "text", _READ),
    "dbnet": Experiment("mmocr", "textdet/dbnet/dbnet_resnet18_fpnc_1200e_icdar2015.py", "text", _FIND_TEXT),
    "srcnn": Experiment("mmagic", "srcnn/srcnn_x4k915_1xb16-1000k_div2k.py", "pairs", _RESTORE),
}
