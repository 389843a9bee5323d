# Linear evaluation of a ResNet-50 on ImageNet, whatever it was trained by: only its last layer is trained, anew.
#     trainwright train classification/resnet50_linear_imagenet --load-from CHECKPOINT
_base_ = "resnet50_imagenet.py"

model = dict(
    backbone=dict(_delete_=True, type="TorchvisionFeatures", name="resnet50", layers="avgpool"),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(type="LinearClsHead", num_classes=1000, in_channels=2048),
    frozen=["backbone"],
)
