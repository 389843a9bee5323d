# k-NN evaluation of the features of a LeNet: nothing is trained.
#     trainwright test classification/lenet_knn_fashion_mnist work_dirs/lenet_fashion_mnist/epoch_8.pth
# 90 % after lenet_fashion_mnist, 82 % with random weights. For a network of your own, inherit its config and change
# the type of the model in the same way.
_base_ = "lenet_fashion_mnist.py"

model = dict(
    type="KNNClassifier",
    # The activations before the last layer.
    layer="backbone.classifier.3",
    memory=dict(batch_size=500, dataset=dict(type="FashionMNISTSubset", split="train")),
    k=20,
)
