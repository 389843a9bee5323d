# A perceptron on two linearly separable clouds of points: 100 % in a second.
_base_ = "../_base_/toy_runtime.py"

model = dict(
    type="ImageClassifier",
    backbone=dict(type="MLP", in_features=2, hidden_features=[], num_classes=2),
    data_preprocessor=dict(type="BaseDataPreprocessor"),
)

train_dataloader = dict(batch_size=20, dataset=dict(type="TwoClouds", num_samples=200))
val_dataloader = dict(batch_size=100, dataset=dict(type="TwoClouds", num_samples=100, seed=1))
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.1, momentum=0.9))
