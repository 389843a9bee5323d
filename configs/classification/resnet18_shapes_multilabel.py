# Multi-label ResNet-18 on colored shapes: mAP over 90 in two minutes on two CPU cores.
_base_ = ["../_base_/datasets/shapes_multilabel.py", "../_base_/default_runtime.py"]

model = dict(
    type="ImageClassifier",
    # The first half of a ResNet-18, with feature maps of stride 8.
    backbone=dict(type="TorchvisionFeatures", name="resnet18", layers="layer2"),
    neck=dict(type="GlobalAveragePooling"),
    # Circle, square, triangle.
    head=dict(type="MultiLabelLinearClsHead", num_classes=3, in_channels=128),
)

max_epochs = 12
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=3)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05))
param_scheduler = dict(type="OneCycleLR", eta_max=3e-3, total_steps=max_epochs, convert_to_iter_based=True)
default_hooks = dict(checkpoint=dict(interval=3, save_best="multi-label/mAP"))
