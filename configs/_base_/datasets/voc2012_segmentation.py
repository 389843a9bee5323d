# Pascal VOC 2012, semantic segmentation with 21 classes. Unpack VOCtrainval_11-May-2012.tar in data/, which gives
# data/VOCdevkit/VOC2012/{JPEGImages,SegmentationClass,ImageSets/Segmentation}. For the augmented training set (10,582
# images, "SBD"), add its masks as SegmentationClassAug and its list:
#   --cfg-options train_dataloader.dataset.ann_file=ImageSets/Segmentation/train_aug.txt
#                 train_dataloader.dataset.data_prefix.seg_map_path=SegmentationClassAug
data_root = "data/VOCdevkit/VOC2012"
# Mean and standard deviation of the pixels of ImageNet, from 0 to 255.
data_preprocessor = dict(
    type="SegDataPreprocessor", mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], non_blocking=True
)

train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    pin_memory=True,
    drop_last=True,
    dataset=dict(
        type="VOCSegmentation",
        data_root=data_root,
        ann_file="ImageSets/Segmentation/train.txt",
        data_prefix=dict(img_path="JPEGImages", seg_map_path="SegmentationClass"),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadSegMap"),
            # Resize the shorter side to 0.5 to 2 times 520 pixels.
            dict(type="RandomResize", min_size=260, max_size=1040),
            dict(type="RandomHorizontalFlip", p=0.5),
            dict(type="SegRandomCrop", crop_size=480),
            dict(type="PackInputs"),
        ],
    ),
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="pseudo_collate"),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    pin_memory=True,
    dataset=dict(
        type="VOCSegmentation",
        data_root=data_root,
        ann_file="ImageSets/Segmentation/val.txt",
        test_mode=True,
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="Resize", size=520),
            # After the resize: predictions are measured at the size of the files.
            dict(type="LoadSegMap"),
            dict(type="PackInputs"),
        ],
    ),
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="pseudo_collate"),
)
test_dataloader = val_dataloader

val_evaluator = dict(type="IoUMetric")
test_evaluator = val_evaluator
