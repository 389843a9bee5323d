"""A detector in the style of Detectron2, on drawn shapes: a list of dicts in, a dict of losses or a list of dicts out.

Run `python examples/detectron2_style.py` (needs `trainwright[coco]`): two minutes on a CPU, box mAP@50 over 0.6.
A network made with Detectron2 is used in the same way, in the place of `TinyDetector`.
"""

import torch
from torch import nn
from torchvision.ops import batched_nms, generalized_box_iou_loss, sigmoid_focal_loss

from trainwright.engine import MODELS, Runner
from trainwright.models.detectron2.structures import Boxes, Instances  # or those of detectron2.structures

STRIDE = 8


@MODELS.register_module()
class TinyDetector(nn.Module):
    """A small FCOS: each cell of a grid that is near the center of an object predicts its class and its edges."""

    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes
        layers = [nn.BatchNorm2d(3)]
        for width, channels, stride in ((3, 32, 2), (32, 64, 2), (64, 96, 2), (96, 96, 1)):
            layers += [nn.Conv2d(width, channels, 3, stride, 1), nn.BatchNorm2d(channels), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(96, num_classes + 4, 3, padding=1))
        nn.init.constant_(self.layers[-1].bias[:num_classes], -3)  # most cells have no object

    def forward(self, batched_inputs):
        output = self.layers(torch.stack([x["image"].float() for x in batched_inputs]))
        y, x = (torch.arange(size, device=output.device) * STRIDE + STRIDE / 2 for size in output.shape[2:])
        points = torch.cartesian_prod(y, x).flip(1)
        logits, edges = output.flatten(2).transpose(1, 2).split([self.num_classes, 4], 2)
        left_top, right_bottom = (edges.exp() * STRIDE).split(2, 2)
        boxes = torch.cat([points - left_top, points + right_bottom], 2)
        if self.training:
            return self.losses(points, logits, boxes, [x["instances"] for x in batched_inputs])
        return [{"instances": self.detections(*one)} for one in zip(logits.sigmoid(), boxes, batched_inputs)]

    def losses(self, points, logits, boxes, instances):
        classes, matched = torch.zeros_like(logits), [(boxes[0, :0], boxes[0, :0])]
        for index, truth in enumerate(instances):
            low, high = truth.gt_boxes.tensor[:, None].split(2, 2)
            near = (points - (low + high) / 2).abs() <= ((high - low) / 4).clamp(min=STRIDE / 2)
            owner, cell = near.all(2).nonzero(as_tuple=True)
            classes[index, cell, truth.gt_classes[owner]] = 1
            matched.append((boxes[index, cell], truth.gt_boxes.tensor[owner]))
        found, expected = map(torch.cat, zip(*matched))
        losses = sigmoid_focal_loss(logits, classes), generalized_box_iou_loss(found, expected)
        return {name: loss.sum() / max(1, len(found)) for name, loss in zip(("loss_cls", "loss_box"), losses)}

    def detections(self, scores, boxes, x):
        scores, index = scores.flatten().topk(50)
        boxes, classes = boxes[index // self.num_classes], index % self.num_classes
        kept = batched_nms(boxes, scores, classes, 0.5)
        fields = dict(pred_boxes=Boxes(boxes[kept]), scores=scores[kept], pred_classes=classes[kept])
        return Instances(x["image"].shape[1:], **fields)


def shapes(**settings):
    dataset = dict(type="Shapes", size=96, pipeline=[dict(type="PackInputs")], **settings)
    return dict(batch_size=16, dataset=dataset, collate_fn=dict(type="pseudo_collate"))


cfg = dict(
    model=dict(type="Detectron2Model", network=dict(type="TinyDetector", num_classes=3), input_format="RGB"),
    work_dir="work_dirs/detectron2_style",
    train_dataloader=shapes(num_samples=800),
    train_cfg=dict(max_epochs=12, val_interval=4),
    optim_wrapper=dict(optimizer=dict(type="AdamW", lr=1e-3), clip_grad=dict(max_norm=10)),
    param_scheduler=dict(type="OneCycleLR", eta_max=4e-3, total_steps=12, convert_to_iter_based=True),
    val_dataloader=shapes(num_samples=200, seed=1),
    val_cfg=dict(),
    val_evaluator=dict(type="CocoMetric"),
    randomness=dict(seed=0),
)

if __name__ == "__main__":
    Runner.from_cfg(cfg).train()
