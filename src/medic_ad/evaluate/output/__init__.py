"""Evaluation: figures as pages, tables, pictures and JSON."""
