# SSDlite320 with a MobileNetV3-Large on COCO with torchvision's recipe (reported box mAP: 21.3). 8 processes with 24
# images of 320x320 pixels each, 660 epochs, SGD with a learning rate of 0.15 and cosine decay, random crops.
_base_ = "faster_rcnn_resnet50_fpn_coco.py"

model = dict(network=dict(name="ssdlite320_mobilenet_v3_large"))

train_dataloader = dict(
    batch_size=24,
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations"),
            dict(type="RandomIoUCrop"),
            dict(type="SanitizeBoundingBoxes"),
            dict(type="RandomHorizontalFlip", p=0.5),
            dict(type="PackInputs"),
        ],
    ),
)
val_dataloader = dict(batch_size=24)
test_dataloader = val_dataloader

max_epochs = 660
train_cfg = dict(max_epochs=max_epochs, val_interval=10)
optim_wrapper = dict(optimizer=dict(lr=0.15, weight_decay=4e-5))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type="CosineAnnealingLR", T_max=max_epochs, by_epoch=True),
]
auto_scale_lr = dict(base_batch_size=192)
default_hooks = dict(checkpoint=dict(interval=10))
