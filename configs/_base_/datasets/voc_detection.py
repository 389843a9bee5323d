# Pascal VOC 2007 and 2012, object detection with 20 classes. Unpack VOCtrainval_06-Nov-2007.tar,
# VOCtest_06-Nov-2007.tar and VOCtrainval_11-May-2012.tar in data/, which gives data/VOCdevkit/{VOC2007,VOC2012}.
# Trained on trainval of both years, tested on test of 2007.
data_root = "data/VOCdevkit/"
data_preprocessor = dict(type="DetDataPreprocessor", non_blocking=True)

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomHorizontalFlip", p=0.5),
    dict(type="PackInputs"),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    pin_memory=True,
    dataset=dict(
        type="ConcatDataset",
        datasets=[
            dict(
                type="VOCDataset",
                data_root=data_root + "VOC2007",
                ann_file="ImageSets/Main/trainval.txt",
                filter_cfg=dict(filter_empty_gt=True),
                bad_annotations="skip",
                pipeline=train_pipeline,
            ),
            dict(
                type="VOCDataset",
                data_root=data_root + "VOC2012",
                ann_file="ImageSets/Main/trainval.txt",
                filter_cfg=dict(filter_empty_gt=True),
                bad_annotations="skip",
                pipeline=train_pipeline,
            ),
        ],
    ),
    sampler=dict(type="DefaultSampler", shuffle=True),
    batch_sampler=dict(type="AspectRatioBatchSampler"),
    collate_fn=dict(type="pseudo_collate"),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    pin_memory=True,
    dataset=dict(
        type="VOCDataset",
        data_root=data_root + "VOC2007",
        ann_file="ImageSets/Main/test.txt",
        bad_annotations="skip",
        test_mode=True,
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations"),
            dict(type="PackInputs"),
        ],
    ),
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="pseudo_collate"),
)
test_dataloader = val_dataloader

val_evaluator = dict(type="VOCMetric", iou_thrs=0.5, eval_mode="11points")
test_evaluator = val_evaluator
