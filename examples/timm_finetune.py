"""A network of timm, fine-tuned on images in folders: data/my_images/{train,val}/CLASS/IMAGE.

Run `python examples/timm_finetune.py` (needs `trainwright[timm]`; the weights are downloaded). `timm.list_models()` has
the names; set NUM_CLASSES to the number of folders.
"""

from trainwright.engine import Runner

FOLDER, NUM_CLASSES, EPOCHS = "data/my_images", 5, 10


def images(split, *transforms):
    return dict(
        batch_size=32,
        num_workers=4,
        persistent_workers=True,
        dataset=dict(
            type="ImageFolder",
            data_root=f"{FOLDER}/{split}",
            pipeline=[dict(type="LoadImageFromFile"), *transforms, dict(type="PackInputs")],
        ),
        sampler=dict(type="DefaultSampler", shuffle=split == "train"),
        collate_fn="pseudo_collate",
    )


cfg = dict(
    model=dict(
        type="ImageClassifier",
        backbone=dict(type="TimmModel", name="convnext_tiny.in12k_ft_in1k", weights="DEFAULT", drop_path_rate=0.1),
        num_classes=NUM_CLASSES,
        loss=dict(type="CrossEntropyLoss", label_smoothing=0.1),
    ),
    data_preprocessor=dict(
        type="ClsDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        batch_augments=[dict(type="Mixup", alpha=0.2), dict(type="CutMix", alpha=1.0)],
    ),
    work_dir="work_dirs/timm_finetune",
    train_dataloader=images(
        "train",
        dict(type="RandomResizedCrop", size=224),
        dict(type="RandomHorizontalFlip"),
        dict(type="RandAugment"),
    ),
    train_cfg=dict(max_epochs=EPOCHS),
    optim_wrapper=dict(
        optimizer=dict(type="AdamW", lr=5e-4, weight_decay=0.05),
        constructor="LearningRateDecayOptimWrapperConstructor",  # the first layers learn more slowly
        paramwise_cfg=dict(decay_rate=0.7),
        clip_grad=dict(max_norm=1.0),
    ),
    param_scheduler=[
        dict(type="LinearLR", start_factor=0.01, end=1, convert_to_iter_based=True),
        dict(type="CosineAnnealingLR", begin=1, convert_to_iter_based=True),
    ],
    val_dataloader=images("val", dict(type="Resize", size=256), dict(type="CenterCrop", size=224)),
    val_cfg=dict(),
    val_evaluator=dict(type="Accuracy"),
    custom_hooks=[
        dict(type="EMAHook", momentum=1e-3),
        dict(type="EarlyStoppingHook", monitor="accuracy/top1", patience=3),
    ],
    default_hooks=dict(checkpoint=dict(max_keep_ckpts=1, save_best="auto")),
)

if __name__ == "__main__":
    Runner.from_cfg(cfg).train()
