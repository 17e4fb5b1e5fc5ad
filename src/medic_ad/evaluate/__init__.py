"""Evaluation: what the model card says, measured through the same road that `read` takes."""
