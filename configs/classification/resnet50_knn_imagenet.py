# k-NN evaluation of a ResNet-50 on ImageNet, whatever it was trained by: its features judge without training.
#     trainwright test classification/resnet50_knn_imagenet CHECKPOINT
# The features of all training images take 10 GB on the device.
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
