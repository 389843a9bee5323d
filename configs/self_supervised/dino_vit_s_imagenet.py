# DINO with a ViT-S/16 on ImageNet (Caron et al. 2021, https://arxiv.org/abs/2104.14294): 16 processes with 64 images
# each, 800 epochs (reported: 77.0 % by linear evaluation, 74.5 % by nearest neighbors). Two large crops and ten small
# ones of each image. pip install "trainwright[timm]".
_base_ = ["../_base_/datasets/imagenet_views.py", "../_base_/default_runtime.py"]

# Interpolation 3 is bicubic.
large = dict(type="RandomResizedCrop", size=224, scale=(0.25, 1.0), interpolation=3)
small = dict(type="RandomResizedCrop", size=96, scale=(0.05, 0.25), interpolation=3)
jitter = [
    dict(type="RandomHorizontalFlip"),
    dict(
        type="RandomApply",
        transforms=[dict(type="ColorJitter", brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)],
        p=0.8,
    ),
    dict(type="RandomGrayscale", p=0.2),
]
blurs = dict(type="GaussianBlur", kernel_size=23, sigma=(0.1, 2.0))
solarizes = dict(type="RandomSolarize", threshold=128, p=0.2)
views = [
    [large, *jitter, blurs],
    [large, *jitter, dict(type="RandomApply", transforms=[blurs], p=0.1), solarizes],
    [small, *jitter, dict(type="RandomApply", transforms=[blurs], p=0.5)],
]
train_dataloader = dict(
    batch_size=64,
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="MultiView", transforms=views, num_views=[1, 1, 10]),
            dict(type="PackInputs"),
        ],
    ),
)
model = dict(
    type="DINO",
    backbone=dict(
        type="TimmModel",
        name="vit_small_patch16_224",
        num_classes=0,
        dynamic_img_size=True,  # for the small crops
        drop_path_rate=0.1,
    ),
    teacher_temperature=0.07,
    warmup=30 / 800,
    frozen_prototypes=1 / 800,
    memory={{_base_.memory}},
)

warmup_epochs = 10
train_cfg = dict(by_epoch=True, max_epochs=800, val_interval=50)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    type="AmpOptimWrapper",
    optimizer=dict(type="AdamW", lr=5e-4, weight_decay=0.04),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=True, end=warmup_epochs, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.02, by_epoch=True, begin=warmup_epochs, convert_to_iter_based=True),
    # The weight decay rises from 0.04 to 0.4.
    dict(
        type="CosineAnnealingParamScheduler",
        param_name="weight_decay",
        eta_min_ratio=10,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
auto_scale_lr = dict(enable=True, base_batch_size=1024)
