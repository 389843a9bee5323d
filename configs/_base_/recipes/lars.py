# LARS with a warm-up of 10 epochs and cosine decay, for batches of thousands of images. The biases and normalization
# layers are neither decayed nor adapted. pip install "trainwright[timm]".
optim_wrapper = dict(
    type="AmpOptimWrapper",
    optimizer=dict(type="timm.optim.Lars", lr=4.8, momentum=0.9, weight_decay=1e-6),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=True, end=10, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", by_epoch=True, begin=10, convert_to_iter_based=True),
]
