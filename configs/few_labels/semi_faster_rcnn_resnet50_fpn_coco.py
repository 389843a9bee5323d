# A Faster R-CNN with a teacher on COCO with 10 % of the boxes (Unbiased Teacher, Liu et al. 2021,
# https://arxiv.org/abs/2102.09480; reported box mAP: 31.5, from labels alone 23.9). 8 processes with 4 labeled and 4
# other images each, 180,000 iterations. The annotations are those of the literature, split by MMDetection's
# tools/misc/split_coco.py: instances_train2017.1@10.json and instances_train2017.1@10-unlabeled.json in
# data/coco/semi_anns.
#     trainwright launch few_labels/semi_faster_rcnn_resnet50_fpn_coco
_base_ = ["../_base_/datasets/coco_detection.py", "../_base_/default_runtime.py"]

strong = [
    dict(
        type="RandomApply",
        transforms=[dict(type="ColorJitter", brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)],
        p=0.8,
    ),
    dict(type="RandomGrayscale", p=0.2),
    dict(type="RandomApply", transforms=[dict(type="GaussianBlur", kernel_size=9, sigma=(0.1, 2.0))], p=0.5),
    dict(type="RandomErasing", p=0.7, scale=(0.05, 0.2), ratio=(0.3, 3.3)),
    dict(type="RandomErasing", p=0.5, scale=(0.02, 0.2), ratio=(0.1, 6.0)),
]

model = dict(
    type="SemiSupervisedDetector",
    detector=dict(
        type="TorchvisionDetector",
        network=dict(
            type="TorchvisionDetectionModel",
            name="fasterrcnn_resnet50_fpn",
            num_classes=80,
            weights_backbone="IMAGENET1K_V1",
        ),
    ),
    threshold=0.7,
    weight=4.0,
    burn_in=2000,
    momentum=0.0004,
)

data_root = "data/coco"
train_dataloader = dict(
    _delete_=True,
    labeled=dict(
        batch_size=4,
        num_workers=4,
        pin_memory=True,
        collate_fn="pseudo_collate",
        dataset=dict(
            type="CocoDataset",
            data_root=data_root,
            ann_file="semi_anns/instances_train2017.1@10.json",
            data_prefix=dict(img_path="train2017"),
            filter_cfg=dict(filter_empty_gt=True, min_size=10),
            bad_annotations="skip",
            pipeline=[
                dict(type="LoadImageFromFile"),
                dict(type="LoadAnnotations"),
                dict(type="RandomHorizontalFlip"),
                dict(type="PackInputs"),
            ],
        ),
        sampler=dict(type="DefaultSampler", shuffle=True),
        batch_sampler=dict(type="AspectRatioBatchSampler"),
    ),
    unlabeled=dict(
        batch_size=4,
        num_workers=4,
        pin_memory=True,
        collate_fn="pseudo_collate",
        dataset=dict(
            type="CocoDataset",
            data_root=data_root,
            ann_file="semi_anns/instances_train2017.1@10-unlabeled.json",
            data_prefix=dict(img_path="train2017"),
            bad_annotations="skip",
            pipeline=[
                dict(type="LoadImageFromFile"),
                dict(type="RandomHorizontalFlip"),
                dict(type="MultiView", transforms=[[], strong]),
                dict(type="PackInputs"),
            ],
        ),
        sampler=dict(type="DefaultSampler", shuffle=True),
        batch_sampler=dict(type="AspectRatioBatchSampler"),
    ),
)

train_cfg = dict(by_epoch=False, max_iters=180_000, val_interval=5000)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=1e-4))
param_scheduler = dict(type="LinearLR", start_factor=0.001, by_epoch=False, end=1000)
default_hooks = dict(checkpoint=dict(interval=5000, by_epoch=False, save_best="coco/bbox_mAP"))
find_unused_parameters = True
