"""Requests as rows of batches: they join, leave and are cancelled at any character."""
