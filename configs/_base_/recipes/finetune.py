# Fine-tuning of a pretrained transformer or ConvNeXt, for any dataset and training length. The modern recipe with
# layer-wise learning rates: the closer a layer is to the input, the lower its rate. Without pretrained weights it would
# learn nothing, and is refused.
_base_ = "modern.py"

optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=5e-4, weight_decay=0.05, betas=(0.9, 0.999)),
    constructor="LearningRateDecayOptimWrapperConstructor",
    paramwise_cfg=dict(decay_rate=0.7, norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
    clip_grad=dict(max_norm=1.0),
)
