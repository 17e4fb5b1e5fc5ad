"""Evaluation: stage 1 fitted anew in folds of a table, beside a small ResNet."""
