"""From a checkpoint to a step model in ONNX."""
