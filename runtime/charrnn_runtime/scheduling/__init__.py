"""Scheduling of requests as rows of batches, which they can join and leave at any character."""
