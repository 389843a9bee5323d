# torchvision's pretrained ResNet-50, fine-tuned on Pascal VOC 2007, multi-label classification.
_base_ = ["../_base_/datasets/voc2007_multilabel.py", "../_base_/default_runtime.py"]

model = dict(
    type="ImageClassifier",
    backbone=dict(type="TorchvisionModel", name="resnet50", weights="IMAGENET1K_V2"),
    num_classes=20,
    head=dict(type="MultiLabelClsHead"),
)

max_epochs = 20
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=1)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.05),
    # The last layer is trained from scratch.
    paramwise_cfg=dict(custom_keys={"backbone.fc": dict(lr_mult=10)}, needs_pretrained=True),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=True, end=1, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=0, by_epoch=True, begin=1, convert_to_iter_based=True),
]
custom_hooks = [dict(type="EMAHook", momentum=1e-3)]
default_hooks = dict(checkpoint=dict(save_best="multi-label/mAP"))
