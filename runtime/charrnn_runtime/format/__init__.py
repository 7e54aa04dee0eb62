"""The file format: what a step model file holds, and how it is read without trusting it."""
