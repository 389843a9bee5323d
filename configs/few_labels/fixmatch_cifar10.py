# FixMatch on CIFAR-10 with 250 labels (Sohn et al. 2020, https://arxiv.org/abs/2001.07685; reported with a
# WideResNet-28-2: 94.9 %). The network here is a ResNet-18 for small images. 2^20 iterations with 64 labeled and 448
# other images; torchvision's files are expected in data/cifar10, and downloaded with download=True.
_base_ = "../_base_/default_runtime.py"

weak = [
    dict(type="RandomHorizontalFlip"),
    dict(type="RandomCrop", size=32, padding=4, padding_mode="reflect"),
]
strong = [*weak, dict(type="RandAugment"), dict(type="RandomErasing", p=1.0, scale=(0.02, 0.25), value=127)]

model = dict(
    type="FixMatch",
    classifier=dict(
        type="ImageClassifier",
        backbone=dict(type="TorchvisionModel", name="resnet18", num_classes=10, small_input=True),
        data_preprocessor=dict(type="ImgDataPreprocessor", mean=[125.3, 123.0, 113.9], std=[63.0, 62.1, 66.7]),
    ),
    threshold=0.95,
)

train_dataloader = dict(
    labeled=dict(
        batch_size=64,
        num_workers=4,
        persistent_workers=True,
        collate_fn="default_collate",
        dataset=dict(
            type="CIFAR10", root="data/cifar10", split="train", indices=250, pipeline=[*weak, dict(type="PackInputs")]
        ),
        sampler=dict(type="DefaultSampler", shuffle=True),
    ),
    unlabeled=dict(
        batch_size=448,
        num_workers=12,
        persistent_workers=True,
        collate_fn="default_collate",
        dataset=dict(
            type="CIFAR10",
            root="data/cifar10",
            split="train",
            pipeline=[dict(type="MultiView", transforms=[weak, strong]), dict(type="PackInputs")],
        ),
        sampler=dict(type="DefaultSampler", shuffle=True),
    ),
)
train_cfg = dict(by_epoch=False, max_iters=2**20, val_interval=1024)
optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.03, momentum=0.9, nesterov=True, weight_decay=5e-4))
param_scheduler = dict(type="CosineAnnealingLR", by_epoch=False, eta_min_ratio=0.2)
custom_hooks = [dict(type="EMAHook", momentum=0.001, update_buffers=True)]
default_hooks = dict(checkpoint=dict(interval=1024, by_epoch=False))

val_dataloader = dict(
    batch_size=500,
    dataset=dict(type="CIFAR10", root="data/cifar10", split="test"),
    sampler=dict(type="DefaultSampler", shuffle=False),
)
val_cfg = dict()
val_evaluator = dict(type="Accuracy")
test_dataloader = val_dataloader
test_cfg = dict()
test_evaluator = val_evaluator
