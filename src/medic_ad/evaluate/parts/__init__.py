"""Evaluation: sections of a page that several commands show, or that fill a file."""
