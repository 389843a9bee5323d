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
_PAIRS = dict(data_root="pairs/val", ann_file="", data_prefix=dict(img="x4", gt="gt"))
_RESTORE = {
    **_CPU,
    "train_dataloader.batch_size": 2,
    **{f"{mode}_dataloader.num_workers": 0 for mode in ("train", "val")},
    "train_dataloader.dataset.ann_file": "",
    "train_dataloader.dataset.data_root": "pairs/train",
    "train_dataloader.dataset.data_prefix": dict(img="x4", gt="gt"),
    "train_dataloader.dataset.pipeline.3.gt_patch_size": 64,
    **{f"val_dataloader.dataset.{key}": value for key, value in _PAIRS.items()},
    **{f"test_dataloader.{index}.dataset.{key}": value for index in range(3) for key, value in _PAIRS.items()},
    **{f"test_dataloader.{index}.num_workers": 0 for index in range(3)},
    "train_cfg.max_iters": 6,
    "train_cfg.val_interval": 3,
    "default_hooks.checkpoint.interval": 3,
    "default_hooks.checkpoint.out_dir": None,
}
_GENERATE = {
    **_CPU,
    **_loaders(2, root="pairs/train/gt"),
    "model.generator.base_channels": 64,
    "model.discriminator.base_channels": 16,
    **{  # the one of the config downloads a network
        f"{mode}_evaluator.metrics": [dict(type="MS_SSIM", fake_nums=4, sample_model="orig")]
        for mode in ("val", "test")
    },
    "train_cfg.max_iters": 6,
    "train_cfg.val_interval": 3,
    "default_hooks.checkpoint.interval": 3,
    "default_hooks.checkpoint.save_best": ["avg"],
}
_DEGRADE = {
    **_CPU,
    **_loaders(2),
    "train_dataloader.dataset.ann_file": "",
    "train_dataloader.dataset.data_root": "pairs/train",
    "train_dataloader.dataset.data_prefix": dict(img="gt", gt="gt"),
    **{f"{mode}_dataloader.dataset.{key}": value for key, value in _PAIRS.items() for mode in ("val", "test")},
    "model.generator.mid_channels": 16,
    "model.generator.num_blocks": 2,
    "train_dataloader.dataset.pipeline.2.crop_size": (80, 80),
    "train_dataloader.dataset.pipeline.12.degradations.1.0.params.target_size": (20, 20),
    "train_dataloader.dataset.pipeline.16.gt_patch_size": 64,
    "train_cfg.max_iters": 6,
    "train_cfg.val_interval": 3,
    "default_hooks.checkpoint.interval": 3,
    "default_hooks.checkpoint.out_dir": None,
}
_GROW = {
    **_CPU,
    **{f"{mode}_dataloader.num_workers": 0 for mode in ("train", "test")},
    "train_dataloader.batch_size": 4,
    "train_dataloader.dataset.data_roots": {"128": "pairs/train/gt"},
    "train_dataloader.dataset.gpu_samples_per_scale": {"4": 4, "8": 2},
    "train_dataloader.dataset.gpu_samples_base": 2,
    "test_dataloader.batch_size": 2,
    "test_dataloader.dataset.data_root": "pairs/train/gt",
    "model.nkimgs_per_scale": {"4": 0.012, "8": 0.012, "16": 0.1},
    "model.transition_kimgs": 0.006,
    "custom_hooks.0.interval": 100,
    "test_evaluator.metrics.0.fake_nums": 4,
    "test_evaluator.metrics.1.fake_nums": 4,
    "train_cfg.max_iters": 10,
    "train_cfg.val_interval": 4,
    "default_hooks.checkpoint.interval": 4,
}
_YOLO = {
    **_CPU,
    **_loaders(2, root="coco/"),
    **{f"{mode}_evaluator.ann_file": "coco/annotations/instances_val2017.json" for mode in ("val", "test")},
    **{f"model.{part}.widen_factor": 0.125 for part in ("backbone", "neck", "bbox_head.head_module")},
    "model.bbox_head.head_module.num_classes": 3,
    "model.test_cfg.score_thr": 0,
    "train_dataloader.dataset.pipeline.2.img_scale": (96, 96),
    "train_dataloader.dataset.pipeline.3.border": (-48, -48),
    **{f"{mode}_dataloader.dataset.pipeline.{step}.scale": (96, 96) for mode in ("val", "test") for step in (1, 2)},
    "custom_hooks.0.momentum": 0.1,
    "default_hooks.param_scheduler.max_epochs": 2,
    "train_cfg.max_epochs": 2,
    "train_cfg.val_interval": 1,
    "default_hooks.checkpoint.interval": 1,
}
_BATCH_SHAPES = {
    f"{mode}_dataloader.dataset.batch_shapes_cfg.{key}": value
    for mode in ("val", "test")
    for key, value in dict(img_size=96, batch_size=2).items()
}
_SWITCH = {
    "custom_hooks.1.switch_epoch": 1,
    **{f"custom_hooks.1.switch_pipeline.{step}.scale": (96, 96) for step in (2, 3)},
    "model.train_cfg.assigner.num_classes": 3,
    "train_cfg.dynamic_intervals": None,
}
_VOTE = {
    **_CPU,
    **_loaders(2),
    "train_dataloader.dataset.times": 2,
    "train_dataloader.dataset.dataset.data_root": "scannet/",
    **{f"{mode}_dataloader.dataset.data_root": "scannet/" for mode in ("val", "test")},
    "train_dataloader.dataset.dataset.pipeline.4.num_points": 2048,
    **{f"{mode}_dataloader.dataset.pipeline.2.transforms.2.num_points": 2048 for mode in ("val", "test")},
    "model.backbone.num_points": (256, 128, 64, 32),
    "model.bbox_head.vote_aggregation_cfg.num_point": 32,
    "model.test_cfg.score_thr": 0,
    "train_cfg.max_epochs": 2,
}
_AREA = [0, -10.24, -3, 20.48, 10.24, 1]
_PILLARS = {
    **_CPU,
    **_loaders(2),
    "train_dataloader.dataset.times": 2,
    "train_dataloader.dataset.dataset.data_root": "kitti/",
    "train_dataloader.dataset.dataset.pipeline.2.db_sampler.data_root": "kitti/",
    "train_dataloader.dataset.dataset.pipeline.2.db_sampler.info_path": "kitti/kitti_dbinfos_train.pkl",
    **{f"train_dataloader.dataset.dataset.pipeline.{step}.point_cloud_range": _AREA for step in (5, 6)},
    **{f"{mode}_dataloader.dataset.data_root": "kitti/" for mode in ("val", "test")},
    **{f"{mode}_dataloader.dataset.pipeline.1.transforms.2.point_cloud_range": _AREA for mode in ("val", "test")},
    **{f"{mode}_evaluator.ann_file": "kitti/kitti_infos_val.pkl" for mode in ("val", "test")},
    **{f"{mode}_evaluator.metric": "img_bbox" for mode in ("val", "test")},  # the others take a GPU
    "model.test_cfg.score_thr": 0,
    "model.data_preprocessor.voxel_layer.point_cloud_range": _AREA,
    "model.voxel_encoder.point_cloud_range": _AREA,
    "model.middle_encoder.output_shape": [128, 128],
    "model.bbox_head.anchor_generator.ranges": [[0, -10.24, -1.78, 20.48, 10.24, -1.78]],
    "param_scheduler": [],
    "train_cfg.max_epochs": 2,
    "train_cfg.val_interval": 1,
}
_OF_MMCLS = {
    **_CPU,
    **_loaders(4, root="imagenet"),
    **{f"{mode}_dataloader.dataset.ann_file": "" for mode in ("train", "val", "test")},
    **{f"{mode}_dataloader.dataset.metainfo": dict(classes=CLASSES) for mode in ("train", "val", "test")},
    "train_dataloader.dataset.pipeline.1.scale": 32,
    **{f"{mode}_dataloader.dataset.pipeline.1.scale": 36 for mode in ("val", "test")},
    **{f"{mode}_dataloader.dataset.pipeline.2.crop_size": 32 for mode in ("val", "test")},
}
_SLIM = {
    **_OF_MMCLS,
    **{f"{mode}_dataloader.persistent_workers": False for mode in ("train", "val", "test")},
    "train_dataloader.batch_size": 16,
    "model.mutator.parse_cfg.demo_input": (1, 3, 32, 32),
    "param_scheduler.end": 2,
    "train_cfg.max_epochs": 2,
}
_DISTILL = {**_OF_MMCLS, "model.teacher_ckpt": None, "train_cfg.max_epochs": 2}
_TRANSFORMER = {
    **_CPU,
    **_loaders(4, workers=2, root="imagenet"),
    **{f"{mode}_dataloader.dataset.metainfo": dict(classes=CLASSES) for mode in ("train", "val", "test")},
    **{f"{mode}_dataloader.dataset.split": "" for mode in ("train", "val", "test")},
    **{f"{mode}_dataloader.dataset.data_prefix": mode for mode in ("train", "val")},
    "test_dataloader.dataset.data_prefix": "val",
    "data_preprocessor.num_classes": 4,
    "model.backbone.img_size": 64,
    "model.head.num_classes": 4,
    "train_dataloader.dataset.pipeline.1.scale": 64,
    **{f"{mode}_dataloader.dataset.pipeline.1.scale": 70 for mode in ("val", "test")},
    **{f"{mode}_dataloader.dataset.pipeline.2.crop_size": 64 for mode in ("val", "test")},
    **{f"{mode}_evaluator.topk": (1,) for mode in ("val", "test")},
    "custom_hooks": [dict(type="EMAHook", momentum=0.01, priority="ABOVE_NORMAL")],
    "optim_wrapper.accumulative_counts": 2,
    "param_scheduler.0.end": 1,
    "param_scheduler.1.begin": 1,
    "train_cfg.max_epochs": 2,
}
_MOSAIC = {
    **_CPU,
    **_loaders(4, root="coco/"),
    **{f"{mode}_evaluator.ann_file": "coco/annotations/instances_val2017.json" for mode in ("val", "test")},
    "model.backbone.init_cfg": None,
    "model.bbox_head.num_classes": 3,
    "train_dataloader.dataset.pipeline.2.img_scale": (96, 96),
    "train_dataloader.dataset.pipeline.3.scale": (192, 192),
    "train_dataloader.dataset.pipeline.4.crop_size": (96, 96),
    "train_dataloader.dataset.pipeline.7.size": (96, 96),
    "train_dataloader.dataset.pipeline.8.img_scale": (96, 96),
    "custom_hooks.1.switch_pipeline.2.scale": (96, 96),
    "custom_hooks.1.switch_pipeline.3.crop_size": (96, 96),
    "custom_hooks.1.switch_pipeline.6.size": (96, 96),
    "custom_hooks.1.switch_epoch": 1,
    **{f"{mode}_dataloader.dataset.pipeline.1.scale": (96, 96) for mode in ("val", "test")},
    **{f"{mode}_dataloader.dataset.pipeline.2.size": (96, 96) for mode in ("val", "test")},
    **{f"tta_pipeline.1.transforms.0.{index}.scale": (size, size) for index, size in enumerate((96, 64, 96))},
    "tta_pipeline.1.transforms.2.0.size": (96, 96),
    "train_cfg.max_epochs": 2,
    "train_cfg.val_interval": 1,
    "default_hooks.checkpoint.interval": 1,
}
_WINDOWS = {
    **{
        key: value
        for key, value in _TRANSFORMER.items()
        if not key.startswith(("custom_hooks", "model.backbone", "optim_wrapper", "train_dataloader.dataset.pipeline"))
    },
    **{f"{mode}_dataloader.dataset.pipeline.1.scale": 230 for mode in ("val", "test")},
    **{f"{mode}_dataloader.dataset.pipeline.2.crop_size": 224 for mode in ("val", "test")},
}
_QUERIES = {
    **{key: value for key, value in _DETECT.items() if key != "train_dataloader.dataset.pipeline.2.scale"},
    "train_dataloader.dataset.pipeline.3.transforms.0.0.scales": [(96, 160), (64, 160)],
    "train_dataloader.dataset.pipeline.3.transforms.1.0.scales": [(96, 200), (80, 200)],
    "train_dataloader.dataset.pipeline.3.transforms.1.1.crop_size": (48, 96),
    "train_dataloader.dataset.pipeline.3.transforms.1.2.scales": [(96, 160), (64, 160)],
    "param_scheduler.0.milestones": [1],
    "param_scheduler.0.end": 2,
}
_MIXED = {
    **_CPU,
    **_loaders(4),
    "train_dataloader.dataset.dataset.data_root": "coco/",
    **{f"{mode}_dataloader.dataset.data_root": "coco/" for mode in ("val", "test")},
    **{f"{mode}_evaluator.ann_file": "coco/annotations/instances_val2017.json" for mode in ("val", "test")},
    "train_dataloader.dataset.pipeline.0.img_scale": (96, 96),
    "train_dataloader.dataset.pipeline.1.border": (-48, -48),
    "train_dataloader.dataset.pipeline.4.scale": (96, 96),
    **{f"{mode}_dataloader.dataset.pipeline.1.scale": (96, 96) for mode in ("val", "test")},
    "model.bbox_head.num_classes": 3,
    "model.data_preprocessor.batch_augments.0.random_size_range": (64, 128),
    "model.data_preprocessor.batch_augments.0.interval": 1,
    "custom_hooks.0.num_last_epochs": 1,
    "param_scheduler.0.end": 1,
    "param_scheduler.1.begin": 1,
    "param_scheduler.1.T_max": 1,
    "param_scheduler.1.end": 2,
    "param_scheduler.2.begin": 2,
    "param_scheduler.2.end": 3,
    "train_cfg.max_epochs": 3,
    "train_cfg.val_interval": 1,
    "default_hooks.checkpoint.interval": 1,
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
    "lsgan": Experiment(
        "mmagic", "lsgan/lsgan_lsgan-archi_lr1e-4-1xb64-10Mimgs_lsun-bedroom-128x128.py", "pairs", _GENERATE
    ),
    "realesrnet": Experiment(
        "mmagic", "real_esrgan/realesrnet_c64b23g32_4xb12-lr2e-4-1000k_df2k-ost.py", "pairs", _DEGRADE
    ),
    "pggan": Experiment("mmagic", "pggan/pggan_8xb4-12Mimgs_celeba-cropped-128x128.py", "pairs", _GROW),
    "yolov5": Experiment(
        "mmyolo",
        "yolov5/yolov5_n-v61_syncbn_fast_8xb16-300e_coco.py",
        "coco",
        {**_YOLO, **_BATCH_SHAPES},
        deleted=("train_dataloader.dataset.pipeline.4",),  # albumentations, which cannot be seeded
    ),
    "yolov8": Experiment(
        "mmyolo",
        "yolov8/yolov8_n_syncbn_fast_8xb16-500e_coco.py",
        "coco",
        {**_YOLO, **_SWITCH},
        deleted=("train_dataloader.dataset.pipeline.4", "custom_hooks.1.switch_pipeline.5"),
    ),
    "votenet": Experiment("mmdet3d", "votenet/votenet_8xb8_scannet-3d.py", "scannet", _VOTE),
    "pointpillars": Experiment(
        "mmdet3d", "pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-car.py", "kitti", _PILLARS
    ),
    "distillation": Experiment(
        "mmrazor", "distill/mmcls/kd/kd_logits_resnet34_resnet18_8xb32_in1k.py", "imagenet", _DISTILL
    ),
    "autoslim": Experiment(
        "mmrazor", "nas/mmcls/autoslim/autoslim_mbv2_1.5x_supernet_8xb256_in1k.py", "imagenet", _SLIM
    ),
    "deit": Experiment("mmpretrain", "deit/deit-tiny_4xb256_in1k.py", "imagenet", _TRANSFORMER),
    "rtmdet": Experiment("mmdet", "rtmdet/rtmdet_tiny_8xb32-300e_coco.py", "coco", _MOSAIC),
    "mask_rcnn": Experiment("mmdet", "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py", "coco", _DETECT),
    "segformer": Experiment(
        "mmseg",
        "segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py",
        "cityscapes",
        {**_SEGMENT, "model.backbone.init_cfg": None},
    ),
    "swin": Experiment("mmpretrain", "swin_transformer/swin-tiny_16xb64_in1k.py", "imagenet", _WINDOWS),
    "deeplabv3plus": Experiment(
        "mmseg",
        "deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024.py",
        "cityscapes",
        {
            **{key: value for key, value in _SEGMENT.items() if not key.startswith("model.test_cfg")},
            "model.pretrained": None,
        },
    ),
    "deformable_detr": Experiment("mmdet", "deformable_detr/deformable-detr_r50_16xb2-50e_coco.py", "coco", _QUERIES),
    "yolox": Experiment("mmdet", "yolox/yolox_tiny_8xb8-300e_coco.py", "coco", _MIXED),
    "rtmpose": Experiment(
        "mmpose",
        "body_2d_keypoint/rtmpose/coco/rtmpose-t_8xb256-420e_coco-256x192.py",
        "person",
        {
            **{
                key: value
                for key, value in _POSE.items()
                if not key.startswith(("model", "val_dataloader.dataset.bbox", "test_dataloader.dataset.bbox"))
            },
            "model.backbone.init_cfg": None,
            "custom_hooks.0.switch_epoch": 1,
            **{  # those of the config need albumentations
                f"{path}.7": dict(type="RandomApply", transforms=[dict(type="PhotometricDistortion")], prob=0.5)
                for path in ("train_dataloader.dataset.pipeline", "custom_hooks.0.switch_pipeline")
            },
            "param_scheduler.1.begin": 1,
            "param_scheduler.1.end": 2,
            "param_scheduler.1.T_max": 1,
        },
    ),
}
