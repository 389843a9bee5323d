# torchvision's ResNet-18, adapted to gray images of 28x28, on the shipped Fashion-MNIST images.
_base_ = "lenet_fashion_mnist.py"

model = dict(
    type="ImageClassifier",
    backbone=dict(
        _delete_=True,
        type="TorchvisionModel",
        name="resnet18",
        num_classes=10,
        in_channels=1,
        small_input=True,
    ),
)

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="SGD", lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True),
    # No weight decay for biases and normalization layers.
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", by_epoch=True, begin=1, eta_min=0, convert_to_iter_based=True),
]
