# The 10,000 + 2,000 images of Fashion-MNIST that ship with Trainwright, loaded a batch at a time.
data_preprocessor = dict(type="ImgDataPreprocessor", mean=[72.94], std=[90.02])

train_dataloader = dict(
    batch_size=128,
    dataset=dict(
        type="FashionMNISTSubset",
        split="train",
        batch_transforms=[dict(type="BatchRandomHorizontalFlip", prob=0.5)],
    ),
    sampler=dict(type="DefaultSampler", shuffle=True),
)
val_dataloader = dict(
    batch_size=500,
    dataset=dict(type="FashionMNISTSubset", split="test"),
    sampler=dict(type="DefaultSampler", shuffle=False),
)
test_dataloader = val_dataloader

val_evaluator = dict(type="Accuracy", topk=(1, 5))
test_evaluator = val_evaluator
