# A masked autoencoder with a ViT-B/16 on ImageNet (He et al. 2022, https://arxiv.org/abs/2111.06377): 8 processes with
# 512 images each, 800 epochs (reported for 1600 epochs: 83.6 % after fine-tuning). The only augmentation is cropping.
#     trainwright launch self_supervised/mae_vit_b_imagenet
# Fine-tune its backbone in a config with a classifier: --load-from CHECKPOINT
_base_ = ["../_base_/datasets/imagenet_views.py", "../_base_/default_runtime.py"]

train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="RandomResizedCrop", size=224, scale=(0.2, 1.0), interpolation=3),  # bicubic
            dict(type="RandomHorizontalFlip"),
            dict(type="PackInputs"),
        ],
    ),
)
model = dict(
    type="MAE",
    backbone=dict(type="TorchvisionModel", name="vit_b_16", num_classes=0),
    memory={{_base_.memory}},
)

warmup_epochs = 40
train_cfg = dict(by_epoch=True, max_epochs=800, val_interval=50)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    type="AmpOptimWrapper",
    optimizer=dict(type="AdamW", lr=2.4e-3, betas=(0.9, 0.95), weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=True, end=warmup_epochs, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", by_epoch=True, begin=warmup_epochs, convert_to_iter_based=True),
]
auto_scale_lr = dict(enable=True, base_batch_size=4096)
