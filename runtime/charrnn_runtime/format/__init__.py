"""The file format: the contents of a step model file, and a reader that does not trust it."""
