# Colored shapes on a noisy background, drawn on the fly, with the exact class of every pixel.
data_preprocessor = dict(type="SegDataPreprocessor", mean=[128, 128, 128], std=[64, 64, 64])

train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    dataset=dict(
        type="Shapes",
        num_samples=800,
        size=64,
        pipeline=[
            dict(type="KeepAnnotations", keys=["gt_seg_map"]),
            dict(type="RandomHorizontalFlip"),
            dict(type="RandomVerticalFlip"),
            dict(type="PackInputs"),
        ],
    ),
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="pseudo_collate"),
)
val_dataloader = dict(
    batch_size=50,
    num_workers=0,
    dataset=dict(
        type="Shapes",
        num_samples=200,
        size=64,
        seed=1,
        pipeline=[dict(type="KeepAnnotations", keys=["gt_seg_map"]), dict(type="PackInputs")],
        test_mode=True,
    ),
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="pseudo_collate"),
)
test_dataloader = val_dataloader

val_evaluator = dict(type="IoUMetric")
test_evaluator = val_evaluator
