# Colored shapes on a noisy background, drawn on the fly, with the exact depth of every pixel: the larger, the nearer.
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    dataset=dict(
        type="Shapes",
        num_samples=800,
        size=64,
        annotations=("gt_depth_map",),
        pipeline=[
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
        annotations=("gt_depth_map",),
        pipeline=[dict(type="PackInputs")],
        test_mode=True,
    ),
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="pseudo_collate"),
)
test_dataloader = val_dataloader

val_evaluator = dict(type="DepthMetric", depth_metrics=["abs_rel", "rmse", "d1"])
test_evaluator = val_evaluator
