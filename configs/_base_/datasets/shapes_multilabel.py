# Colored shapes on a noisy background, drawn on the fly, labeled with the kinds of shapes in the image.
data_preprocessor = dict(type="ImgDataPreprocessor", mean=[128, 128, 128], std=[64, 64, 64])

train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    dataset=dict(
        type="Shapes",
        num_samples=2000,
        size=48,
        max_shapes=2,
        radius=(0.2, 0.35),
        pipeline=[
            dict(type="RandomHorizontalFlip"),
            dict(type="RandomVerticalFlip"),
            dict(type="LabelsFromInstances"),
            dict(type="KeepAnnotations", keys=["gt_label"]),
            dict(type="PackInputs"),
        ],
    ),
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="pseudo_collate"),
)
val_dataloader = dict(
    batch_size=100,
    num_workers=0,
    dataset=dict(
        type="Shapes",
        num_samples=400,
        size=48,
        max_shapes=2,
        radius=(0.2, 0.35),
        seed=1,
        pipeline=[
            dict(type="LabelsFromInstances"),
            dict(type="KeepAnnotations", keys=["gt_label"]),
            dict(type="PackInputs"),
        ],
        test_mode=True,
    ),
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="pseudo_collate"),
)
test_dataloader = val_dataloader

val_evaluator = [dict(type="AveragePrecision"), dict(type="MultiLabelMetric")]
test_evaluator = val_evaluator
