# MoCo v3 with a ViT-S/16 on ImageNet (Chen, Xie & He 2021, https://arxiv.org/abs/2104.02057): 8 processes with 512
# each, 300 epochs (reported: 73.2 % by linear evaluation, with fixed embeddings of positions). The embedding of patches
# is not trained, which makes the training stable. pip install "trainwright[timm]".
#     trainwright launch self_supervised/mocov3_vit_s_imagenet
_base_ = ["../_base_/datasets/imagenet_views.py", "../_base_/default_runtime.py"]

model = dict(
    type="MoCoV3",
    backbone=dict(type="TimmModel", name="vit_small_patch16_224", num_classes=0),
    temperature=0.2,
    projector_layers=3,
    memory={{_base_.memory}},
    frozen=["backbone.patch_embed"],
)

warmup_epochs = 40
train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=20)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(type="AmpOptimWrapper", optimizer=dict(type="AdamW", lr=2.4e-3, weight_decay=0.1))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=True, end=warmup_epochs, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", by_epoch=True, begin=warmup_epochs, convert_to_iter_based=True),
]
auto_scale_lr = dict(enable=True, base_batch_size=4096)
