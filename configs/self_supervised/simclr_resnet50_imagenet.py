# SimCLR with a ResNet-50 on ImageNet (Chen et al. 2020, https://arxiv.org/abs/2002.05709): 8 processes with 512
# each, 1000 epochs (reported: 69.3 % by linear evaluation). pip install "trainwright[timm]".
#     trainwright launch self_supervised/simclr_resnet50_imagenet
#     trainwright train classification/resnet50_linear_imagenet --load-from CHECKPOINT
_base_ = ["../_base_/datasets/imagenet_views.py", "../_base_/recipes/lars.py", "../_base_/default_runtime.py"]

view = [
    dict(type="RandomResizedCrop", size=224),
    dict(type="RandomHorizontalFlip"),
    dict(
        type="RandomApply",
        transforms=[dict(type="ColorJitter", brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2)],
        p=0.8,
    ),
    dict(type="RandomGrayscale", p=0.2),
    dict(type="RandomApply", transforms={{_base_.blur}}, p=0.5),
]
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="MultiView", transforms=[view], num_views=2),
            dict(type="PackInputs"),
        ],
    ),
)
model = dict(
    type="SimCLR",
    backbone=dict(type="TorchvisionModel", name="resnet50", num_classes=0),
    memory={{_base_.memory}},
)

train_cfg = dict(by_epoch=True, max_epochs=1000, val_interval=50)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(enable=True, base_batch_size=4096)
sync_bn = "torch"
