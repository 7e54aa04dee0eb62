"""Rewrites the graph of a model for the batch and device that runs it."""
