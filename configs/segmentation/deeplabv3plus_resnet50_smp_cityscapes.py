# DeepLabV3+ of segmentation-models-pytorch with a ResNet-50 on Cityscapes from ImageNet weights, which are downloaded.
# The recipe of FCN, without auxiliary head. mmsegmentation reports a mIoU of 79.6 for this network with a smaller
# stride, an auxiliary head and the same 40,000 steps. pip install "trainwright[smp]".
_base_ = "fcn_resnet50_cityscapes.py"

model = dict(
    network=dict(
        _delete_=True,
        type="SMPModel",
        arch="DeepLabV3Plus",
        num_classes=19,
        encoder_name="resnet50",
        encoder_weights="imagenet",
    ),
)
