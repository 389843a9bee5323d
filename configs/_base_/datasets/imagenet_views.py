# Two random views of each image of ImageNet-1k, with the augmentation of BYOL and MoCo v3: one is always blurred, the
# other sometimes solarized. For the folders, see imagenet.py. In validation, images are classified by their nearest
# neighbors among the training images.
data_root = "data/imagenet"
data_preprocessor = dict(
    type="ImgDataPreprocessor", mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], non_blocking=True
)

colors = [
    dict(type="RandomHorizontalFlip"),
    dict(
        type="RandomApply",
        transforms=[dict(type="ColorJitter", brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)],
        p=0.8,
    ),
    dict(type="RandomGrayscale", p=0.2),
]
blur = [dict(type="GaussianBlur", kernel_size=23, sigma=(0.1, 2.0))]
view_1 = [dict(type="RandomResizedCrop", size=224), *colors, *blur]
view_2 = [
    dict(type="RandomResizedCrop", size=224),
    *colors,
    dict(type="RandomApply", transforms=blur, p=0.1),
    dict(type="RandomSolarize", threshold=128, p=0.2),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", size=256),
    dict(type="CenterCrop", size=224),
    dict(type="PackInputs"),
]

train_dataloader = dict(
    batch_size=512,
    num_workers=16,
    pin_memory=True,
    persistent_workers=True,
    drop_last=True,
    dataset=dict(
        type="ImageNet",
        data_root=data_root,
        split="train",
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="MultiView", transforms=[view_1, view_2]),
            dict(type="PackInputs"),
        ],
    ),
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn="default_collate",
)
memory = dict(
    batch_size=256,
    num_workers=16,
    dataset=dict(type="ImageNet", data_root=data_root, split="train", pipeline=test_pipeline),
)
val_dataloader = dict(
    batch_size=256,
    num_workers=16,
    dataset=dict(type="ImageNet", data_root=data_root, split="val", test_mode=True, pipeline=test_pipeline),
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="pseudo_collate"),
)
test_dataloader = val_dataloader

val_evaluator = dict(type="Accuracy")
test_evaluator = val_evaluator
