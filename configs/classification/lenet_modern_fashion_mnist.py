# LeNet on Fashion-MNIST with the modern recipe: 89 % in three minutes on two CPU cores. It shows all parts of the
# recipe; a network as small as this gains little from it.
_base_ = [
    "../_base_/datasets/fashion_mnist_subset.py",
    "../_base_/recipes/modern.py",
    "../_base_/default_runtime.py",
]

model = dict(type="ImageClassifier", backbone=dict(type="LeNet", num_classes=10, batch_norm=True), num_classes=10)
data_preprocessor = dict(type="ClsDataPreprocessor", batch_augments={{_base_.batch_augments}})

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type="FashionMNISTSubset",
        split="train",
        pipeline=[
            dict(type="RandomHorizontalFlip"),
            dict(type="TrivialAugmentWide"),
            dict(type="RandomErasing", p=0.1, value=73),
            dict(type="PackInputs"),
        ],
    ),
    sampler=dict(_delete_=True, type="RepeatAugSampler", shuffle=True, num_repeats=2),
)

max_epochs = 16
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=4)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(optimizer=dict(lr=3e-3))
warmup_epochs = 2
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=True, end=warmup_epochs, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=0, by_epoch=True, begin=warmup_epochs, convert_to_iter_based=True),
]
custom_hooks = [dict(type="EMAHook", momentum=0.01, update_buffers=True)]
