# Embeddings of birds for retrieval, by the multi-similarity loss (Wang et al. 2019, https://arxiv.org/abs/1904.06627),
# with the settings of Roth et al. 2020 (https://arxiv.org/abs/2002.08473; reported on CUB-200-2011: rank-1 of 62.8 %).
# The classes of the test are not those of the training: put the folders of the first 100 classes into
# data/cub200/train, and the others into data/cub200/test. pip install "trainwright[metric-learning]"; torchvision's
# weights are downloaded.
_base_ = "../_base_/default_runtime.py"

model = dict(
    type="EmbeddingModel",
    backbone=dict(type="TorchvisionModel", name="resnet50", num_classes=0, weights="IMAGENET1K_V1"),
    head=dict(type="torch.nn.Linear", in_features=2048, out_features=128),
    loss=dict(type="pytorch_metric_learning.losses.MultiSimilarityLoss", alpha=2.0, beta=40.0, base=0.5),
    miner=dict(type="pytorch_metric_learning.miners.MultiSimilarityMiner", epsilon=0.1),
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    frozen=["backbone.bn1", "backbone.layer*.bn*", "backbone.layer*.downsample.1"],
)
data_root = "data/cub200"
train_dataloader = dict(
    num_workers=8,
    persistent_workers=True,
    collate_fn="default_collate",
    dataset=dict(
        type="ImageFolder",
        data_root=data_root,
        split="train",
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="RandomResizedCrop", size=224),
            dict(type="RandomHorizontalFlip"),
            dict(type="PackInputs"),
        ],
    ),
    batch_sampler=dict(type="PKBatchSampler", num_classes=56, num_samples=2),
)
val_dataloader = dict(
    batch_size=112,
    num_workers=8,
    collate_fn="default_collate",
    dataset=dict(
        type="ImageFolder",
        data_root=data_root,
        split="test",
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="Resize", size=256),
            dict(type="CenterCrop", size=224),
            dict(type="PackInputs"),
        ],
    ),
    sampler=dict(type="DefaultSampler", shuffle=False),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="RetrievalMetric", topk=(1, 2, 4))
test_evaluator = val_evaluator

train_cfg = dict(by_epoch=True, max_epochs=150, val_interval=5)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type="Adam", lr=1e-5, weight_decay=4e-4))
default_hooks = dict(checkpoint=dict(save_best="retrieval/rank1"))
