# The simple baseline with a ResNet-50 on COCO at 256x192 (reported AP: 70.4). The AP is with detected boxes (person AP
# 56.4). The recipe of the paper (Xiao et al. 2018): 140 epochs of 128 instances per step (2 processes with 64 each),
# Adam with a learning rate of 1e-3, divided by 10 after 90 and 120 epochs, and a flip test.
#     torchrun --nproc_per_node=2 -m trainwright.tools.cli train pose/simple_baseline_resnet50_coco --launcher pytorch
_base_ = ["../_base_/datasets/coco_keypoints.py", "../_base_/default_runtime.py"]

inferencer_type = "Pose2DInferencer"
model = dict(
    type="TopdownPoseEstimator",
    backbone=dict(type="TorchvisionFeatures", name="resnet50", layers="layer4", weights="IMAGENET1K_V1"),
    head=dict(
        type="HeatmapHead",
        in_channels=2048,
        out_channels=17,
        codec=dict(type="MSRAHeatmap", input_size=(192, 256), heatmap_size=(48, 64), sigma=2),
    ),
    test_cfg=dict(flip_test=True),
    flip_indices=(0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15),
)

max_epochs = 140
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=10)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(optimizer=dict(type="Adam", lr=1e-3))
param_scheduler = dict(type="MultiStepLR", milestones=[90, 120], gamma=0.1, by_epoch=True, begin=0, end=max_epochs)
auto_scale_lr = dict(enable=True, base_batch_size=128)
default_hooks = dict(checkpoint=dict(interval=10, save_best="coco/keypoints_mAP"))
