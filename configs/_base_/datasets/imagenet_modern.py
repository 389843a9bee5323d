# ImageNet-1k with the augmentation of torchvision's newer recipes ("IMAGENET1K_V2"). Smaller crops in training than in
# validation, TrivialAugment, random erasing, and repeated augmentation: an epoch visits a quarter of the images, each
# four times.
_base_ = "imagenet.py"

train_dataloader = dict(
    batch_size=128,
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="RandomResizedCrop", size=176),
            dict(type="RandomHorizontalFlip"),
            dict(type="TrivialAugmentWide", interpolation=2),  # bilinear
            # Erased pixels become the mean, which the preprocessor maps to 0.
            dict(type="RandomErasing", p=0.1, value=[124, 116, 104]),
            dict(type="PackInputs"),
        ],
    ),
    sampler=dict(_delete_=True, type="RepeatAugSampler", shuffle=True, num_repeats=4),
)
val_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="Resize", size=232),
            dict(type="CenterCrop", size=224),
            dict(type="PackInputs"),
        ],
    ),
)
test_dataloader = val_dataloader
