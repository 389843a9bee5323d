# Faster R-CNN with a ResNet-50-FPN on Pascal VOC 2007 and 2012. torchvision's recipe for COCO, shortened to 12 epochs
# for the smaller dataset.
_base_ = ["../_base_/datasets/voc_detection.py", "../_base_/default_runtime.py"]

model = dict(
    type="TorchvisionDetector",
    network=dict(
        type="TorchvisionDetectionModel",
        name="fasterrcnn_resnet50_fpn",
        num_classes=20,
        weights_backbone="IMAGENET1K_V1",
    ),
)

train_cfg = dict(by_epoch=True, max_epochs=12, val_interval=1)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.02, momentum=0.9, weight_decay=1e-4))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type="MultiStepLR", milestones=[8, 11], gamma=0.1, by_epoch=True),
]
auto_scale_lr = dict(enable=True, base_batch_size=16)
default_hooks = dict(checkpoint=dict(interval=1, save_best="pascal_voc/mAP"))
