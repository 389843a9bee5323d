# Faster R-CNN with a ResNet-50-FPN on COCO with torchvision's recipe (reported box mAP: 37.0). The recipe
# (references/detection of pytorch/vision): 8 processes with 2 images each, 26 epochs, SGD with a learning rate of 0.02,
# divided by 10 at epochs 16 and 22, a backbone pretrained on ImageNet whose first layers are frozen.
#     torchrun --nproc_per_node=8 -m trainwright.tools.cli train detection/faster_rcnn_resnet50_fpn_coco \
#         --launcher pytorch
# To test torchvision's trained weights, which are downloaded, or to continue training from them:
#     --cfg-options model.network.weights=COCO_V1 model.network.weights_backbone=None
_base_ = ["../_base_/datasets/coco_detection.py", "../_base_/default_runtime.py"]

model = dict(
    type="TorchvisionDetector",
    network=dict(
        type="TorchvisionDetectionModel",
        name="fasterrcnn_resnet50_fpn",
        num_classes=80,
        weights_backbone="IMAGENET1K_V1",
    ),
)

train_cfg = dict(by_epoch=True, max_epochs=26, val_interval=1)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.02, momentum=0.9, weight_decay=1e-4))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type="MultiStepLR", milestones=[16, 22], gamma=0.1, by_epoch=True),
]
# The learning rate is for 16 images per step; it is scaled for other numbers.
auto_scale_lr = dict(enable=True, base_batch_size=16)
default_hooks = dict(checkpoint=dict(interval=1, save_best="coco/bbox_mAP"))
