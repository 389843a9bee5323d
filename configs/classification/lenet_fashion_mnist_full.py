# LeNet on all 60,000 + 10,000 images of Fashion-MNIST. They are downloaded to data_root unless they are already there.
_base_ = "lenet_fashion_mnist.py"

data_root = "data/fashion_mnist"

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type="FashionMNIST",
        root=data_root,
        split="train",
        download=True,
        batch_transforms=[dict(type="BatchRandomHorizontalFlip", prob=0.5)],
    ),
)
val_dataloader = dict(
    batch_size=1000,
    dataset=dict(_delete_=True, type="FashionMNIST", root=data_root, split="test", download=True),
)
test_dataloader = val_dataloader
