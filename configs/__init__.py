"""Configs that ship with Trainwright."""
