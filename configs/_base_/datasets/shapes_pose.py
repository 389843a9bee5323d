# Arrows on a noisy background, drawn on the fly, with exact tip, left barb, right barb and tail.
data_preprocessor = dict(type="PoseDataPreprocessor", mean=[128, 128, 128], std=[64, 64, 64])
input_size = (64, 64)  # width, height

train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    dataset=dict(
        type="TopdownShapes",
        num_samples=800,
        size=96,
        pipeline=[
            dict(type="GetBBoxCenterScale"),
            dict(type="RandomBBoxTransform", scale_factor=(0.75, 1.25), rotate_factor=180, rotate_prob=1.0),
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
    num_workers=0,
    dataset=dict(
        type="TopdownShapes",
        num_samples=200,
        size=96,
        seed=1,
        pipeline=[
            dict(type="GetBBoxCenterScale"),
            dict(type="TopdownAffine", input_size=input_size),
            dict(type="PackInputs"),
        ],
        test_mode=True,
    ),
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="pseudo_collate"),
)
test_dataloader = val_dataloader

# For OKS mAP, add dict(type="CocoKeypointMetric"), which needs pip install "trainwright[coco]".
val_evaluator = [dict(type="PCKAccuracy", thr=0.1)]
test_evaluator = val_evaluator
