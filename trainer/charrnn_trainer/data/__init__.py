"""Text: reading files, tokenizing, splitting and batching."""
