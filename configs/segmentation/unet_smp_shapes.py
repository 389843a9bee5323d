# UNet of segmentation-models-pytorch with a small ResNet of timm on colored shapes: mIoU over 80 in three minutes on
# one CPU core. Random weights, so nothing is downloaded; pip install "trainwright[smp]".
_base_ = ["../_base_/datasets/shapes_segmentation.py", "../_base_/default_runtime.py"]

model = dict(
    type="SemanticSegmentor",
    network=dict(
        type="SMPModel",
        arch="Unet",
        num_classes=4,  # background, circle, square, triangle
        encoder_name="tu-resnet10t",
        encoder_depth=4,
        decoder_channels=(64, 32, 24, 16),
        stem_width=12,  # arguments of the network of timm
        channels=(24, 48, 96, 128),
    ),
    loss=[
        dict(type="SegCrossEntropyLoss"),
        dict(type="segmentation_models_pytorch.losses.DiceLoss", mode="multiclass", ignore_index=255),
    ],
)

max_epochs = 12
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=3)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(optimizer=dict(type="AdamW", lr=1e-3, weight_decay=1e-2))
param_scheduler = dict(type="OneCycleLR", eta_max=5e-3, total_steps=max_epochs, convert_to_iter_based=True)
default_hooks = dict(checkpoint=dict(interval=3, save_best="seg/mIoU"))
