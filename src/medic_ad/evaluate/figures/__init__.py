"""Evaluation: numbers: statistics of scores, maps and texts, and their intervals."""
