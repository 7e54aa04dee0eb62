"""Batches run by onnxruntime, on CPUs, on NVIDIA's GPUs, and on others through WebGPU."""
