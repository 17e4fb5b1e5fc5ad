"""Evaluation: what a model must stand beside: trivial scores and maps, networks from scratch."""
