# VideoMAE-B of Hugging Face's transformers, pretrained on Kinetics-400, fine-tuned on your own videos; its weights are
# downloaded. Put the videos into one folder per class in data/videos/train and data/videos/val, and set num_classes.
# Clips have 16 frames of 224x224 pixels. Layer-wise learning rates with a decay of 0.75, as in the paper (Tong et al.
# 2022, https://arxiv.org/abs/2203.12602). pip install "trainwright[transformers,video]".
_base_ = "swin3d_t_finetune.py"

data_preprocessor = None  # the model has the mean and standard deviation of its image processor
model = dict(
    _delete_=True,
    type="HuggingFaceVideoClassifier",
    pretrained="MCG-NJU/videomae-base-finetuned-kinetics",
    num_classes=10,
    test_cfg=dict(max_testing_views=4),
)

train_dataloader = dict(
    dataset=dict(
        dataset=dict(
            pipeline=[
                dict(type="PyAVInit"),
                dict(type="SampleFrames", clip_len=16, frame_interval=4),
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
    dataset=dict(
        pipeline=[
            dict(type="PyAVInit"),
            dict(type="SampleFrames", clip_len=16, frame_interval=4, num_clips=4, test_mode=True),
            dict(type="PyAVDecode"),
            dict(type="Resize", size=224),
            dict(type="ThreeCrop", crop_size=224),
            dict(type="FormatShape"),
            dict(type="PackInputs"),
        ],
    ),
)
test_dataloader = val_dataloader

optim_wrapper = dict(
    optimizer=dict(lr=5e-4),
    constructor="LearningRateDecayOptimWrapperConstructor",
    paramwise_cfg=dict(_delete_=True, decay_rate=0.75, norm_decay_mult=0.0, bias_decay_mult=0.0),
)
