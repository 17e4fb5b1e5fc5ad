"""Batch: many studies from a manifest, read by the one road, one result each."""
