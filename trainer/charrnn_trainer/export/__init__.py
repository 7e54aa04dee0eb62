"""Exports checkpoints as ONNX step models."""
