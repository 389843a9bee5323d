# DeepLabV3 with a ResNet-50 on Pascal VOC 2012 with torchvision's recipe. From references/segmentation of
# pytorch/vision: 8 processes with 4 images each, 30 epochs, base size 520, crops of 480, SGD with a learning rate of
# 0.02 and polynomial decay, ten times that rate for the auxiliary head. torchvision trained on the images of COCO with
# the classes of VOC (mIoU 66.4), a larger dataset.
#     torchrun --nproc_per_node=8 -m trainwright.tools.cli train segmentation/deeplabv3_resnet50_voc2012 \
#         --launcher pytorch
_base_ = ["../_base_/datasets/voc2012_segmentation.py", "../_base_/default_runtime.py"]

model = dict(
    type="SemanticSegmentor",
    network=dict(
        type="TorchvisionSegmentationModel",
        name="deeplabv3_resnet50",
        num_classes=21,
        aux_loss=True,
        weights_backbone="IMAGENET1K_V1",
    ),
    aux_loss_weight=0.5,
)

max_epochs = 30
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=5)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(
    optimizer=dict(type="SGD", lr=0.02, momentum=0.9, weight_decay=1e-4),
    paramwise_cfg=dict(custom_keys={"network.aux_classifier": dict(lr_mult=10)}),
)
param_scheduler = dict(
    type="PolyLR", power=0.9, eta_min=0, by_epoch=True, begin=0, end=max_epochs, convert_to_iter_based=True
)
# The learning rate is for 32 images per step; it is scaled for other numbers.
auto_scale_lr = dict(enable=True, base_batch_size=32)
default_hooks = dict(checkpoint=dict(interval=5, save_best="seg/mIoU"))
