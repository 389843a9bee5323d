# A prototypical network on miniImageNet, 5 classes and 5 examples (Snell et al. 2017, https://arxiv.org/abs/1703.05175;
# reported: 68.2 %, mean of 600 episodes). It is trained on episodes of 20 classes. Images of 84x84 pixels in class
# folders: data/mini_imagenet/{train,val,test}/<class>/, with the 64, 16 and 20 classes of Ravi and Larochelle.
_base_ = "../_base_/default_runtime.py"

model = dict(
    type="PrototypicalNetwork",
    backbone=dict(type="ConvNet", pools=False),
    num_shots=5,
    data_preprocessor=dict(type="ImgDataPreprocessor", mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
)
pipeline = [dict(type="LoadImageFromFile"), dict(type="Resize", size=(84, 84)), dict(type="PackInputs")]
data_root = "data/mini_imagenet"

train_dataloader = dict(
    num_workers=8,
    persistent_workers=True,
    collate_fn="default_collate",
    dataset=dict(type="ImageFolder", data_root=data_root, split="train", pipeline=pipeline),
    batch_sampler=dict(type="EpisodeBatchSampler", num_ways=20, num_shots=5, num_queries=15, num_episodes=100),
)
val_dataloader = dict(
    num_workers=8,
    collate_fn="default_collate",
    dataset=dict(type="ImageFolder", data_root=data_root, split="val", pipeline=pipeline),
    batch_sampler=dict(type="EpisodeBatchSampler", num_ways=5, num_shots=5, num_queries=15, num_episodes=600),
)
test_dataloader = dict(
    num_workers=8,
    collate_fn="default_collate",
    dataset=dict(type="ImageFolder", data_root=data_root, split="test", pipeline=pipeline),
    batch_sampler=dict(type="EpisodeBatchSampler", num_ways=5, num_shots=5, num_queries=15, num_episodes=600),
)
val_evaluator = dict(type="EpisodeAccuracy")
test_evaluator = val_evaluator

train_cfg = dict(by_epoch=True, max_epochs=200, val_interval=10)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type="Adam", lr=1e-3))
# Halved every 2,000 episodes.
param_scheduler = dict(type="StepLR", step_size=20, gamma=0.5, by_epoch=True)
