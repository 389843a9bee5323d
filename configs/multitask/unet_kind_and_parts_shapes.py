# A UNet that classifies and segments colored shapes: accuracy over 80 %, mIoU over 80. One task is the kind of the
# largest shape, the other the class of every pixel. Trains in three minutes on two CPU cores.
_base_ = ["../_base_/datasets/shapes_segmentation.py", "../_base_/default_runtime.py"]

model = dict(
    type="MultiTaskModel",
    # Without classes, it returns two feature maps: the finest one, and the coarsest one with stride 8.
    backbone=dict(type="UNet", num_classes=None, base_channels=16, depth=4),
    # The mean of the coarsest one, for the image label.
    necks=dict(classification=dict(type="GlobalAveragePooling")),
    heads=dict(
        classification=dict(type="LinearClsHead", num_classes=3, in_channels=128),
        segmentation=dict(
            type="SegmentationHead",
            num_classes=4,
            in_channels=(16, 128),
            channels=16,
            dropout=0.0,
            loss=[dict(type="SegCrossEntropyLoss"), dict(type="DiceLoss")],
        ),
    ),
    loss_weights=dict(classification=0.5),
)

# Samples have the annotations of both tasks.
wanted = dict(type="KeepAnnotations", keys=["gt_label", "gt_seg_map"])
train_dataloader = dict(
    dataset=dict(
        pipeline=[wanted, dict(type="RandomHorizontalFlip"), dict(type="RandomVerticalFlip"), dict(type="PackInputs")]
    )
)
val_dataloader = dict(dataset=dict(pipeline=[wanted, dict(type="PackInputs")]))
test_dataloader = val_dataloader

# One metric per task: accuracy/top1 and seg/mIoU.
val_evaluator = [dict(type="Accuracy"), dict(type="IoUMetric")]
test_evaluator = val_evaluator

max_epochs = 10
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=2)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(optimizer=dict(type="AdamW", lr=1e-3, weight_decay=1e-2))
param_scheduler = dict(type="OneCycleLR", eta_max=5e-3, total_steps=max_epochs, convert_to_iter_based=True)
default_hooks = dict(checkpoint=dict(interval=2, save_best=["seg/mIoU", "accuracy/top1"]))
