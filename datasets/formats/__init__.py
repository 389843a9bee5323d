"""Readers of annotation formats that several tasks share: they convert them to COCO-shaped content."""
