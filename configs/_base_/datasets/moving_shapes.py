# Shapes that move or change size, drawn on the fly; the class is the motion. No flips, because they would change it.
data_preprocessor = dict(type="ActionDataPreprocessor", mean=[128, 128, 128], std=[64, 64, 64])

train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    dataset=dict(
        type="MovingShapes",
        num_samples=1600,
        pipeline=[
            dict(type="SampleFrames", clip_len=8),
            dict(type="ArrayDecode"),
            dict(type="RandomCrop", size=36),
            dict(type="FormatShape"),
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
        type="MovingShapes",
        num_samples=300,
        seed=1,
        test_mode=True,
        pipeline=[
            # Two clips per video, whose probabilities are averaged.
            dict(type="SampleFrames", clip_len=8, num_clips=2, test_mode=True),
            dict(type="ArrayDecode"),
            dict(type="FormatShape"),
            dict(type="PackInputs"),
        ],
    ),
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="pseudo_collate"),
)
test_dataloader = val_dataloader

val_evaluator = dict(type="Accuracy")
test_evaluator = val_evaluator
inferencer_type = "ActionRecogInferencer"
