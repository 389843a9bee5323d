# COCO 2017, keypoints. Unpack train2017.zip, val2017.zip and annotations_trainval2017.zip in data/coco, which gives
# data/coco/{train2017,val2017,annotations/person_keypoints_train2017.json}. Needs pip install "trainwright[coco]".
# Validation uses ground-truth boxes. For detected boxes, as in the papers, download a file of results such as
# COCO_val2017_detections_AP_H_56_person.json and add
#   --cfg-options val_dataloader.dataset.bbox_file=person_detection_results/COCO_val2017_detections_AP_H_56_person.json
data_root = "data/coco"
input_size = (192, 256)  # width, height
# Mean and standard deviation of the pixels of ImageNet, from 0 to 255.
data_preprocessor = dict(
    type="PoseDataPreprocessor", mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], non_blocking=True
)

train_dataloader = dict(
    batch_size=64,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    dataset=dict(
        type="CocoKeypointDataset",
        data_root=data_root,
        ann_file="annotations/person_keypoints_train2017.json",
        data_prefix=dict(img_path="train2017"),
        # A few boxes in the training set have no area.
        bad_annotations="skip",
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="GetBBoxCenterScale"),
            dict(type="RandomBBoxTransform", shift_prob=0, scale_factor=(0.7, 1.3), rotate_factor=40, rotate_prob=0.6),
            dict(type="TopdownAffine", input_size=input_size),
            dict(type="RandomFlip"),
            dict(type="PackInputs"),
        ],
    ),
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="pseudo_collate"),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    dataset=dict(
        type="CocoKeypointDataset",
        data_root=data_root,
        ann_file="annotations/person_keypoints_val2017.json",
        data_prefix=dict(img_path="val2017"),
        bad_annotations="skip",
        test_mode=True,
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="GetBBoxCenterScale"),
            dict(type="TopdownAffine", input_size=input_size),
            dict(type="PackInputs"),
        ],
    ),
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="pseudo_collate"),
)
test_dataloader = val_dataloader

val_evaluator = dict(type="CocoKeypointMetric", ann_file=data_root + "/annotations/person_keypoints_val2017.json")
test_evaluator = val_evaluator
