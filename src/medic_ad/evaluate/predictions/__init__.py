"""Evaluation: what models say of the samples of a table, made once and kept."""
