# Kinetics-400, video recognition. One folder per class in data/kinetics400/train and data/kinetics400/val, with video
# files of any format (data/kinetics400/train/archery/-1q7jA3DXQM_000005_000015.mp4). Needs pip install
# "trainwright[video]". For folders of frames: type="RawframeDataset", data_prefix=dict(frame_dir="train"),
# RawFrameDecode instead of PyAVInit and PyAVDecode, and frame_interval=2 instead of target_fps.
data_root = "data/kinetics400"
# Mean and standard deviation of the pixels, from 0 to 255, for torchvision's weights of R3D, MC3 and R(2+1)D.
data_preprocessor = dict(
    type="ActionDataPreprocessor",
    mean=[110.201, 100.640, 95.995],
    std=[58.148, 56.470, 55.332],
    non_blocking=True,
)

train_dataloader = dict(
    batch_size=16,
    num_workers=10,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    dataset=dict(
        type="RepeatDataset",
        times=5,  # five random clips of each video per epoch
        dataset=dict(
            type="VideoDataset",
            data_root=data_root,
            data_prefix=dict(filename="train"),
            pipeline=[
                dict(type="PyAVInit"),
                dict(type="SampleFrames", clip_len=16, target_fps=15),
                dict(type="PyAVDecode"),
                dict(type="Resize", size=(128, 171)),
                dict(type="RandomHorizontalFlip"),
                dict(type="RandomCrop", size=112),
                dict(type="FormatShape"),
                dict(type="PackInputs"),
            ],
        ),
    ),
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="pseudo_collate"),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=10,
    persistent_workers=True,
    pin_memory=True,
    dataset=dict(
        type="VideoDataset",
        data_root=data_root,
        data_prefix=dict(filename="val"),
        test_mode=True,
        pipeline=[
            dict(type="PyAVInit"),
            # Five clips per video, whose probabilities are averaged.
            dict(type="SampleFrames", clip_len=16, target_fps=15, num_clips=5, test_mode=True),
            dict(type="PyAVDecode"),
            dict(type="Resize", size=(128, 171)),
            dict(type="CenterCrop", size=112),
            dict(type="FormatShape"),
            dict(type="PackInputs"),
        ],
    ),
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="pseudo_collate"),
)
test_dataloader = val_dataloader

val_evaluator = dict(type="Accuracy", topk=(1, 5))
test_evaluator = val_evaluator
inferencer_type = "ActionRecogInferencer"
