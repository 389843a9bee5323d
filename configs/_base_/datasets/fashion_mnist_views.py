# Two random views of each image of the Fashion-MNIST subset. In validation, images are classified by their nearest
# neighbors among 500 labeled ones.
views = [
    dict(type="RandomResizedCrop", size=28, scale=(0.3, 1.0)),
    dict(type="RandomHorizontalFlip"),
    dict(type="RandomApply", transforms=[dict(type="ColorJitter", brightness=0.4, contrast=0.4)], p=0.8),
]
memory = dict(batch_size=500, dataset=dict(type="FashionMNISTSubset", split="train", indices=500))

train_dataloader = dict(
    batch_size=256,
    drop_last=True,
    collate_fn="default_collate",
    dataset=dict(
        type="FashionMNISTSubset",
        split="train",
        pipeline=[dict(type="MultiView", transforms=[views], num_views=2), dict(type="PackInputs")],
    ),
    sampler=dict(type="DefaultSampler", shuffle=True),
)
val_dataloader = dict(
    batch_size=500,
    dataset=dict(type="FashionMNISTSubset", split="test"),
    sampler=dict(type="DefaultSampler", shuffle=False),
)
test_dataloader = val_dataloader

val_evaluator = dict(type="Accuracy", topk=(1,))
test_evaluator = val_evaluator
