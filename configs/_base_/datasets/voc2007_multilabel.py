# Pascal VOC 2007, multi-label classification with 20 classes. Unpack VOCtrainval_06-Nov-2007.tar and
# VOCtest_06-Nov-2007.tar in data/, which gives data/VOCdevkit/VOC2007/{JPEGImages,ImageSets/Main}.
data_root = "data/VOCdevkit/VOC2007"
data_preprocessor = dict(
    type="ClsDataPreprocessor", mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], non_blocking=True
)

train_dataloader = dict(
    batch_size=32,
    num_workers=4,
    pin_memory=True,
    dataset=dict(
        type="VOC",
        data_root=data_root,
        split="trainval",
        pipeline=[
            dict(type="LoadImageFromFile"),
            # Large crops, so that no class is cropped away.
            dict(type="RandomResizedCrop", size=448, scale=(0.5, 1.0)),
            dict(type="RandomHorizontalFlip"),
            dict(type="PackInputs"),
        ],
    ),
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="pseudo_collate"),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=4,
    pin_memory=True,
    dataset=dict(
        type="VOC",
        data_root=data_root,
        split="test",
        test_mode=True,
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="Resize", size=[448, 448]),
            dict(type="PackInputs"),
        ],
    ),
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="pseudo_collate"),
)
test_dataloader = val_dataloader

val_evaluator = [dict(type="AveragePrecision"), dict(type="MultiLabelMetric")]
test_evaluator = val_evaluator
