"""Evaluation: images made from images, and which of them a model has seen."""
