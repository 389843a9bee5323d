# Colored shapes on a noisy background, drawn on the fly, one in each image.
train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    dataset=dict(
        type="Shapes",
        num_samples=800,
        size=48,
        max_shapes=1,
        radius=(0.2, 0.4),
        annotations=("gt_label",),
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
    batch_size=100,
    num_workers=0,
    dataset=dict(
        type="Shapes",
        num_samples=200,
        size=48,
        max_shapes=1,
        radius=(0.2, 0.4),
        seed=1,
        annotations=("gt_label",),
        pipeline=[dict(type="PackInputs")],
        test_mode=True,
    ),
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="pseudo_collate"),
)
test_dataloader = val_dataloader

val_evaluator = dict(type="Accuracy")
test_evaluator = val_evaluator
