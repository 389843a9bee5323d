"""Experiments that ship with Trainwright."""
