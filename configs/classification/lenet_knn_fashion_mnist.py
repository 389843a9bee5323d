# k-NN evaluation of a LeNet on Fashion-MNIST: 90 % after lenet_fashion_mnist, without training.
#     trainwright test classification/lenet_knn_fashion_mnist work_dirs/lenet_fashion_mnist/epoch_8.pth
# With random weights, the accuracy is 82 %. To evaluate your own network, inherit its config and change the type of the
# model in the same way.
_base_ = "lenet_fashion_mnist.py"

model = dict(
    type="KNNClassifier",
    # The input of the last layer.
    layer="backbone.classifier.3",
    memory=dict(batch_size=500, dataset=dict(type="FashionMNISTSubset", split="train")),
    k=20,
)
