"""Batches run by onnxruntime, on CPUs, NVIDIA GPUs (CUDA) and other GPUs (WebGPU)."""
