# Colored shapes on a noisy background, drawn on the fly, with exact boxes and masks.
annotations = ("gt_bboxes", "gt_bboxes_labels")

train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    dataset=dict(
        type="Shapes",
        num_samples=800,
        size=96,
        annotations=annotations,
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
    batch_size=25,
    num_workers=0,
    dataset=dict(
        type="Shapes",
        num_samples=200,
        size=96,
        seed=1,
        annotations=annotations,
        pipeline=[dict(type="PackInputs")],
        test_mode=True,
    ),
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="pseudo_collate"),
)
test_dataloader = val_dataloader

val_evaluator = dict(type="CocoMetric", metric="bbox")
test_evaluator = val_evaluator
