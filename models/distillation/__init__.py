"""Distillation of a teacher's knowledge."""
