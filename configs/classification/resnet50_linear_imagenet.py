# Linear evaluation of any ResNet-50 checkpoint on ImageNet. Only the last layer is trained, from scratch.
#     trainwright train classification/resnet50_linear_imagenet --load-from CHECKPOINT
_base_ = "resnet50_imagenet.py"

model = dict(
    backbone=dict(_delete_=True, type="TorchvisionFeatures", name="resnet50", layers="avgpool"),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(type="LinearClsHead", num_classes=1000, in_channels=2048),
    frozen=["backbone"],
)
