# A network with one hidden layer on XOR, which is not linearly separable: 100 % in a few seconds.
_base_ = "../_base_/toy_runtime.py"

model = dict(
    type="ImageClassifier",
    backbone=dict(type="MLP", in_features=2, hidden_features=[16], num_classes=2),
    data_preprocessor=dict(type="BaseDataPreprocessor"),
)

train_dataloader = dict(batch_size=20, dataset=dict(type="XOR", num_samples=400))
val_dataloader = dict(batch_size=100, dataset=dict(type="XOR", num_samples=200, seed=1))
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(type="AdamW", lr=0.02))
param_scheduler = dict(type="CosineAnnealingLR", T_max=20, eta_min=0)
