# Video Swin-T, pretrained on Kinetics-400, fine-tuned on your own videos. Put them into one folder per class in
# data/videos/train and data/videos/val. Tests average four clips and three crops of each video. AdamW with a learning
# rate ten times lower for pretrained layers, as in the paper (Liu et al. 2022, https://arxiv.org/abs/2106.13230).
_base_ = ["../_base_/datasets/kinetics400.py", "../_base_/default_runtime.py"]

model = dict(
    type="Recognizer3D",
    backbone=dict(type="TorchvisionVideoModel", name="swin3d_t", num_classes=10, weights="KINETICS400_V1"),
    test_cfg=dict(max_testing_views=4),
)
data_root = "data/videos"
# These weights expect the mean and standard deviation of ImageNet.
data_preprocessor = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])

train_dataloader = dict(
    batch_size=8,
    dataset=dict(
        times=1,
        dataset=dict(
            data_root=data_root,
            pipeline=[
                dict(type="PyAVInit"),
                dict(type="SampleFrames", clip_len=32, frame_interval=2),
                dict(type="PyAVDecode"),
                dict(type="RandomResizedCrop", size=224, scale=(0.5, 1.0)),
                dict(type="RandomHorizontalFlip"),
                dict(type="FormatShape"),
                dict(type="PackInputs"),
            ],
        ),
    ),
)
val_dataloader = dict(
    batch_size=1,
    dataset=dict(
        data_root=data_root,
        pipeline=[
            dict(type="PyAVInit"),
            dict(type="SampleFrames", clip_len=32, frame_interval=2, num_clips=4, test_mode=True),
            dict(type="PyAVDecode"),
            dict(type="Resize", size=224),
            dict(type="ThreeCrop", crop_size=224),
            dict(type="FormatShape"),
            dict(type="PackInputs"),
        ],
    ),
)
test_dataloader = val_dataloader

max_epochs = 30
train_cfg = dict(by_epoch=True, max_epochs=max_epochs)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(
    type="AmpOptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(
        custom_keys={"backbone": dict(lr_mult=0.1), "backbone.head": dict(lr_mult=1)},
        needs_pretrained=True,  # a config without weights is refused
    ),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=True, begin=0, end=2, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", by_epoch=True, begin=2, end=max_epochs, convert_to_iter_based=True),
]
auto_scale_lr = dict(enable=True, base_batch_size=64)
default_hooks = dict(checkpoint=dict(interval=1, save_best="accuracy/top1"))
