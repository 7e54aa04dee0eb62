"""Text: from any file to tokens, splits and batches."""
