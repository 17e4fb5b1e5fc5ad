"""Evaluation: what each part of the method is worth, by small trainings without it."""
