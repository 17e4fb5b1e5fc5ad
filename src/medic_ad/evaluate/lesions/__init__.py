"""Evaluation: made lesions followed over time."""
