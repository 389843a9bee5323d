# A modern classification recipe, for any dataset and training length. Label smoothing, mixup or CutMix, AdamW without
# decay of normalization layers, warm-up and cosine decay, and averaged weights. The augmentation is added by the data
# config: RepeatAugSampler, TrivialAugmentWide or RandAugment, RandomErasing.
model = dict(loss=dict(type="CrossEntropyLoss", label_smoothing=0.1))
# Pass these to the data_preprocessor, which the data config defines.
batch_augments = [dict(type="Mixup", alpha=0.2), dict(type="CutMix", alpha=1.0)]
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0),
)
warmup_epochs = 5
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=True, end=warmup_epochs, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=0, by_epoch=True, begin=warmup_epochs, convert_to_iter_based=True),
]
custom_hooks = [dict(type="EMAHook", momentum=1e-4, update_buffers=True)]
