# BYOL with a ResNet-50 on ImageNet (Grill et al. 2020, https://arxiv.org/abs/2006.07733): 8 processes with 512
# each, 1000 epochs (reported: 74.3 % by linear evaluation). pip install "trainwright[timm]".
#     trainwright launch self_supervised/byol_resnet50_imagenet
#     trainwright train classification/resnet50_linear_imagenet --load-from CHECKPOINT
_base_ = "simclr_resnet50_imagenet.py"

train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="MultiView", transforms=[{{_base_.view_1}}, {{_base_.view_2}}]),
            dict(type="PackInputs"),
        ],
    ),
)
model = dict(type="BYOL")
optim_wrapper = dict(optimizer=dict(lr=3.2, weight_decay=1.5e-6))
