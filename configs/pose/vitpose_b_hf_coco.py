# ViTPose-B of Hugging Face's transformers on COCO at 256x192 (reported AP: 75.7, simple decoder). Its published weights
# are downloaded, and fine-tuned for 10 epochs with a low learning rate and layer-wise decay; the paper (Xu et al. 2022,
# https://arxiv.org/abs/2204.12484) trains for 210 epochs from MAE weights, with a decay of 0.75. To test the published
# weights: trainwright test pose/vitpose_b_hf_coco. pip install "trainwright[transformers,coco]".
_base_ = ["../_base_/datasets/coco_keypoints.py", "../_base_/default_runtime.py"]

inferencer_type = "Pose2DInferencer"
data_preprocessor = None  # the model has the mean and standard deviation of its image processor
model = dict(
    type="HuggingFacePoseEstimator",
    pretrained="usyd-community/vitpose-base-simple",
    num_keypoints=17,
    test_cfg=dict(flip_test=True),
    flip_indices=(0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15),
)

max_epochs = 10
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=2)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1),
    constructor="LearningRateDecayOptimWrapperConstructor",
    paramwise_cfg=dict(decay_rate=0.75, norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type="CosineAnnealingLR", T_max=max_epochs, by_epoch=True, convert_to_iter_based=True),
]
auto_scale_lr = dict(enable=True, base_batch_size=512)
default_hooks = dict(checkpoint=dict(interval=2, save_best="coco/keypoints_mAP"))
