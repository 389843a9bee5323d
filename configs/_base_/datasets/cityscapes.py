# Cityscapes, semantic segmentation with 19 classes. Unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip in
# data/cityscapes, which gives data/cityscapes/{leftImg8bit,gtFine}/{train,val}/<city>/. The masks are used as
# distributed (label ids).
data_root = "data/cityscapes"
data_preprocessor = dict(
    type="SegDataPreprocessor", mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], non_blocking=True
)

train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    pin_memory=True,
    dataset=dict(
        type="Cityscapes",
        data_root=data_root,
        split="train",
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadSegMap"),
            # Resize to 0.5 to 2 times 2048x1024 pixels.
            dict(type="RandomResize", min_size=512, max_size=2048),
            dict(type="SegRandomCrop", crop_size=(512, 1024), cat_max_ratio=0.75),
            dict(type="RandomHorizontalFlip", p=0.5),
            dict(type="RandomPhotometricDistort"),
            dict(type="PackInputs"),
        ],
    ),
    sampler=dict(type="InfiniteSampler", shuffle=True),
    collate_fn=dict(type="pseudo_collate"),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    pin_memory=True,
    dataset=dict(
        type="Cityscapes",
        data_root=data_root,
        split="val",
        test_mode=True,
        pipeline=[dict(type="LoadImageFromFile"), dict(type="LoadSegMap"), dict(type="PackInputs")],
    ),
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="pseudo_collate"),
)
test_dataloader = val_dataloader

val_evaluator = dict(type="IoUMetric")
test_evaluator = val_evaluator
