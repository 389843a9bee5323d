# R3D-18 on Kinetics-400 with torchvision's recipe (reported top-1 accuracy: 63.2). It is averaged over five
# clips. The recipe (references/video_classification of pytorch/vision): 64 processes with 16 clips each, 45 epochs of
# five clips per video, SGD with a learning rate of 0.01 per process, divided by 10 after 20, 30 and 40 epochs, a linear
# warm-up of 10 epochs, synchronized batch normalization, mixed precision. For other networks, torchvision reports 67.5
# (r2plus1d_18) and 64.0 (mc3_18).
#     torchrun --nnodes=8 --nproc_per_node=8 ... -m trainwright.tools.cli train video/r3d_18_kinetics400 \
#         --launcher pytorch
_base_ = ["../_base_/datasets/kinetics400.py", "../_base_/default_runtime.py"]

model = dict(type="Recognizer3D", backbone=dict(type="TorchvisionVideoModel", name="r3d_18", num_classes=400))
sync_bn = "torch"

max_epochs = 45
train_cfg = dict(by_epoch=True, max_epochs=max_epochs)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(
    type="AmpOptimWrapper",
    optimizer=dict(type="SGD", lr=0.64, momentum=0.9, weight_decay=1e-4),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=True, begin=0, end=10, convert_to_iter_based=True),
    dict(type="MultiStepLR", milestones=[20, 30, 40], gamma=0.1, by_epoch=True, begin=0, end=max_epochs),
]
# The learning rate is for 64 * 16 clips per step; it is scaled for other numbers.
auto_scale_lr = dict(enable=True, base_batch_size=1024)
default_hooks = dict(checkpoint=dict(interval=1, save_best="accuracy/top1"))
