# COCO 2017, object detection. Unpack train2017.zip, val2017.zip and annotations_trainval2017.zip in data/coco, which
# gives data/coco/{train2017,val2017,annotations}. The network resizes the images (min_size and max_size).
data_root = "data/coco"
data_preprocessor = dict(type="DetDataPreprocessor", non_blocking=True)

train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    pin_memory=True,
    dataset=dict(
        type="CocoDataset",
        data_root=data_root,
        ann_file="annotations/instances_train2017.json",
        data_prefix=dict(img_path="train2017"),
        filter_cfg=dict(filter_empty_gt=True, min_size=10),
        # A few boxes in the training set have no area.
        bad_annotations="skip",
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations"),
            dict(type="RandomHorizontalFlip", p=0.5),
            dict(type="PackInputs"),
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
        type="CocoDataset",
        data_root=data_root,
        ann_file="annotations/instances_val2017.json",
        data_prefix=dict(img_path="val2017"),
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

val_evaluator = dict(type="CocoMetric", ann_file=data_root + "/annotations/instances_val2017.json", metric="bbox")
test_evaluator = val_evaluator
