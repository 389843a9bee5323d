"""Tiny detectors as users write them: with the inputs and outputs of torchvision's and of Detectron2's, not their classes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import FCOS, FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead

from trainwright.models.detectron2.structures import Boxes, Instances

STRIDE = 16


class Noise(nn.Module):
    """A layer of a user that only has an effect in training mode."""

    def forward(self, inputs: Tensor) -> Tensor:
        return F.dropout(inputs, 0.3, self.training)


class Grid(nn.Module):
    """Scores and a box for each cell of images that are padded to a common size."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.BatchNorm2d(8), nn.ReLU(), Noise())
        self.head = nn.Sequential(nn.Conv2d(8, 8, 3, 4, 1), nn.Dropout(0.5), nn.Conv2d(8, outputs + 4, 1))

    def predict(self, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return logits (N, P, C) and boxes (N, P, 4) in pixels, of floats in [0, 1]."""
        height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
        padded = [F.pad(image, (0, width - image.shape[2], 0, height - image.shape[1])) for image in images]
        output = self.head(self.backbone(torch.stack(padded)))
        rows, columns = (torch.arange(size, device=output.device) * STRIDE + STRIDE / 2 for size in output.shape[-2:])
        centers = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1).flatten(0, 1)
        output = output.flatten(2).transpose(1, 2)
        sides = output[..., -4:].exp() * STRIDE / 2
        return output[..., :-4], torch.cat([centers - sides[..., :2], centers + sides[..., 2:]], -1)

    def match(self, boxes: Tensor, truth: Tensor) -> Tensor:
        """Return the cell of each object."""
        centers, own = (boxes[:, :2] + boxes[:, 2:]) / 2, (truth[:, :2] + truth[:, 2:]) / 2
        return torch.cdist(own, centers.detach()).argmin(1)

    def loss_of(self, boxes: Tensor, truths: Sequence[Tensor]) -> Tensor:
        """Return the L1 loss of the boxes, per object."""
        parts = [
            (one[self.match(one, truth)] - truth).abs().sum() for one, truth in zip(boxes, truths)
        ]  # fmt: skip
        return torch.stack(parts).sum() / max(1, sum(map(len, truths))) / 100


class TorchvisionStyle(Grid):
    """Label 0 is the background. The detections are not sorted; masks and keypoints are those of the boxes."""

    def __init__(self, num_classes: int = 4, masks: bool = False) -> None:
        super().__init__(num_classes)
        self.masks = masks
        self.targets: Any = None

    def forward(self, images: Sequence[Tensor], targets: Any = None) -> Any:
        self.targets = targets
        logits, boxes = self.predict(images)
        if self.training:
            classes = logits.new_zeros(logits.shape[:2], dtype=torch.int64)
            for index, target in enumerate(targets):
                classes[index, self.match(boxes[index], target["boxes"])] = target["labels"]
            loss = F.cross_entropy(logits.flatten(0, 1), classes.flatten())
            return {"classification": loss, "regression": self.loss_of(boxes, [each["boxes"] for each in targets])}
        scores, labels = logits.softmax(2)[..., 1:].max(2)
        found = [dict(boxes=b, labels=label + 1, scores=s) for b, label, s in zip(boxes, labels, scores)]
        for image, each in zip(images, found if self.masks else []):
            each["masks"] = filled(each["boxes"], image.shape[1:])
            each["keypoints"] = each["boxes"].view(-1, 2, 2)
        return found


class Detectron2Style(Grid):
    """Masks and keypoints are those of the boxes.

    Args:
        num_classes: number of classes.
        masks: predict masks and keypoints.
        rescales: return the instances in the size of the original image, as Detectron2's networks do.
    """

    def __init__(self, num_classes: int = 3, masks: bool = False, rescales: bool = True) -> None:
        super().__init__(num_classes)
        self.num_classes = num_classes
        self.masks = masks
        self.rescales = rescales
        self.records: Any = None

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        self.records = batched_inputs
        logits, boxes = self.predict([record["image"] / 255 for record in batched_inputs])
        if self.training:
            truths = [record["instances"] for record in batched_inputs]
            classes = torch.zeros_like(logits)
            for index, truth in enumerate(truths):
                cells = self.match(boxes[index], truth.gt_boxes.tensor)
                classes[index, cells, truth.gt_classes] = 1
            number = torch.tensor(float(sum(map(len, truths))))
            loss = F.binary_cross_entropy_with_logits(logits, classes)
            regression = self.loss_of(boxes, [truth.gt_boxes.tensor for truth in truths])
            return {"loss_cls": loss, "loss_box_reg": regression, "num_objects": number}
        scores, labels = logits.sigmoid().max(2)
        return [
            {"instances": self.instances(*each)} for each in zip(boxes, labels, scores, batched_inputs)
        ]  # fmt: skip

    def instances(self, boxes: Tensor, labels: Tensor, scores: Tensor, record: Mapping[str, Any]) -> Instances:
        size = record["image"].shape[1:]
        if self.rescales:
            wanted = (record["height"], record["width"])
            boxes = boxes * boxes.new_tensor([wanted[1] / size[1], wanted[0] / size[0]]).repeat(2)
            size = wanted
        found = Instances(size, pred_boxes=Boxes(boxes), pred_classes=labels, scores=scores)
        if self.masks:
            found.pred_masks = filled(boxes, size)
            found.pred_keypoints = torch.cat([boxes.view(-1, 2, 2), scores[:, None, None].expand(-1, 2, 1)], 2)
        return found


class SemanticStyle(nn.Module):
    """Detectron2's inputs and outputs for semantic segmentation."""

    def __init__(self, num_classes: int = 4) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, num_classes, 5, 2, 2)

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        logits = [self.layer(record["image"][None] / 255) for record in batched_inputs]
        if self.training:
            pairs = zip(logits, batched_inputs)
            losses = [
                F.cross_entropy(F.interpolate(each, record["sem_seg"].shape), record["sem_seg"][None])
                for each, record in pairs
            ]
            return {"loss_sem_seg": torch.stack(losses).mean()}
        sizes = [(record["height"], record["width"]) for record in batched_inputs]
        return [{"sem_seg": F.interpolate(each, size, mode="bilinear")[0]} for each, size in zip(logits, sizes)]


def filled(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Return masks (N, H, W) of the pixels whose centers are within the boxes."""
    rows, columns = (torch.arange(length, device=boxes.device) + 0.5 for length in size)
    left, top, right, bottom = boxes.unbind(1)
    inside = (rows >= top[:, None]) & (rows < bottom[:, None])
    return inside[:, :, None] & ((columns >= left[:, None]) & (columns < right[:, None]))[:, None]


def body() -> nn.Module:
    module = nn.Sequential(nn.Conv2d(3, 32, 3, 8, 1), nn.BatchNorm2d(32), nn.ReLU())
    module.out_channels = 32  # type: ignore[assignment]
    return module


class OwnFCOS(FCOS):
    """A subclass of a torchvision detector in another package."""


class OwnRCNN(FasterRCNN):
    """A subclass of a torchvision detector in another package."""


def build_fcos(num_classes: int = 3) -> nn.Module:
    anchors = AnchorGenerator(((8,),), ((1.0,),))
    return OwnFCOS(body(), num_classes, anchor_generator=anchors, min_size=48, max_size=96)


def build_rcnn() -> nn.Module:
    return OwnRCNN(
        body(), rpn_anchor_generator=AnchorGenerator(((16, 32),), ((1.0,),)), box_head=TwoMLPHead(32 * 49, 16),
        box_predictor=FastRCNNPredictor(16, 4), min_size=48, max_size=96, box_detections_per_img=8,
    )  # fmt: skip
