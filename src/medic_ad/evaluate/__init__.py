"""Evaluation: figures of a model, measured through the same road that `read` takes."""
