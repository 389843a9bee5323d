# Images with several arrows for keypoint detectors, drawn on the fly, with exact boxes and keypoints.
annotations = ("gt_bboxes", "gt_bboxes_labels", "gt_areas", "gt_keypoints", "gt_keypoints_visible")

train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    dataset=dict(
        type="Shapes",
        num_samples=800,
        size=96,
        kinds=("arrow",),
        annotations=annotations,
        pipeline=[
            dict(type="RandomFlip"),
            dict(type="PackInputs"),
        ],
    ),
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="pseudo_collate"),
)
val_dataloader = dict(
    batch_size=25,
    num_workers=0,
    dataset=dict(
        type="Shapes",
        num_samples=100,
        size=96,
        kinds=("arrow",),
        annotations=annotations,
        seed=1,
        pipeline=[dict(type="PackInputs")],
        test_mode=True,
    ),
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="pseudo_collate"),
)
test_dataloader = val_dataloader

# Needs pip install "trainwright[coco]".
val_evaluator = dict(type="CocoMetric", metric=["keypoints", "bbox"])
test_evaluator = val_evaluator
