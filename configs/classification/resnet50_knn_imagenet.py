# k-NN evaluation of any ResNet-50 checkpoint on ImageNet, without training.
#     trainwright test classification/resnet50_knn_imagenet CHECKPOINT
# The features of all training images use 10 GB on the device.
_base_ = "resnet50_imagenet.py"

model = dict(
    type="KNNClassifier",
    layer="backbone.avgpool",
    memory=dict(
        batch_size=256,
        num_workers=8,
        dataset=dict(
            type="ImageNet",
            data_root="data/imagenet",
            split="train",
            pipeline=[
                dict(type="LoadImageFromFile"),
                dict(type="Resize", size=256),
                dict(type="CenterCrop", size=224),
                dict(type="PackInputs"),
            ],
        ),
    ),
    k=20,
)
