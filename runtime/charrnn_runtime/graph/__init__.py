"""The graph of a model, rewritten for the batch and the processor that runs it."""
