# Mask R-CNN with a Swin-T of timm on COCO from ImageNet weights, which are downloaded. The recipe of the paper (Liu et
# al. 2021, https://arxiv.org/abs/2103.14030) and of mmdetection, which reports a box mAP of 42.7 and a mask mAP of
# 39.3: 12 epochs of 16 images per step, AdamW with a learning rate of 1e-4, divided by 10 at epochs 8 and 11.
#     torchrun --nproc_per_node=8 -m trainwright.tools.cli train instance_segmentation/mask_rcnn_swin_t_timm_coco \
#         --launcher pytorch
# pip install "trainwright[timm,coco]".
_base_ = "mask_rcnn_resnet50_fpn_coco.py"

model = dict(
    network=dict(
        _delete_=True,
        type="TorchvisionDetectionModel",
        name="maskrcnn",
        num_classes=80,
        backbone=dict(
            type="FeaturePyramid",
            body=dict(
                type="TimmFeatures",
                name="swin_tiny_patch4_window7_224.ms_in1k",
                weights="DEFAULT",
                drop_path_rate=0.2,
            ),
            extra_levels="pool",
        ),
    ),
)

train_cfg = dict(max_epochs=12)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(
        custom_keys={"relative_position_bias_table": dict(decay_mult=0)}, norm_decay_mult=0, needs_pretrained=True
    ),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type="MultiStepLR", milestones=[8, 11], gamma=0.1, by_epoch=True),
]
