# Re-identification of people by triplets, with a soft margin and the hardest examples of each batch (TriNet, Hermans
# et al. 2017, https://arxiv.org/abs/1703.07737; reported on Market-1501, with test-time augmentation: mAP of 69.1 %,
# rank-1 of 84.9 %). The folders of the distribution are expected in data/market1501. 25,000 iterations of 72 images.
# pip install "trainwright[metric-learning]"; torchvision's weights are downloaded.
_base_ = "../_base_/default_runtime.py"

distance = dict(type="pytorch_metric_learning.distances.LpDistance", normalize_embeddings=False)
model = dict(
    type="EmbeddingModel",
    backbone=dict(type="TorchvisionModel", name="resnet50", num_classes=0, weights="IMAGENET1K_V1"),
    head=dict(
        type="trainwright.models.self_supervised.heads.ProjectionMLP",
        in_channels=2048,
        hidden_channels=1024,
        out_channels=128,
        num_layers=2,
    ),
    loss=dict(type="pytorch_metric_learning.losses.TripletMarginLoss", margin=0.0, smooth_loss=True, distance=distance),
    miner=dict(type="pytorch_metric_learning.miners.BatchHardMiner", distance=distance),
    normalized=False,
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
)
data_root = "data/market1501"
train_dataloader = dict(
    num_workers=8,
    persistent_workers=True,
    collate_fn="pseudo_collate",
    dataset=dict(
        type="Market1501",
        data_root=data_root,
        split="train",
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="Resize", size=(288, 144)),
            dict(type="RandomCrop", size=(256, 128)),
            dict(type="RandomHorizontalFlip"),
            dict(type="PackInputs"),
        ],
    ),
    batch_sampler=dict(type="PKBatchSampler", num_classes=18, num_samples=4),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=8,
    collate_fn="pseudo_collate",
    dataset=dict(
        type="Market1501",
        data_root=data_root,
        split="test",
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="Resize", size=(256, 128)),
            dict(type="PackInputs"),
        ],
    ),
    sampler=dict(type="DefaultSampler", shuffle=False),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="RetrievalMetric", topk=(1, 5), other="camera", distance="euclidean")
test_evaluator = val_evaluator

max_iters, decay = 25_000, 15_000
train_cfg = dict(by_epoch=False, max_iters=max_iters, val_interval=2500)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type="Adam", lr=3e-4))
# The learning rate is constant, and then falls by a factor of 1,000.
param_scheduler = dict(type="ExponentialLR", gamma=0.001 ** (1 / (max_iters - decay)), begin=decay, by_epoch=False)
default_hooks = dict(checkpoint=dict(interval=2500, by_epoch=False, save_best="retrieval/mAP"))
